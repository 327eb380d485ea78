"""`scripts/new-resource` writes a resource that passes its tests, and every check of the project, or nothing."""

import sys
from pathlib import Path

import pytest

import new_resource
from new_resource import check, names_of, singular
from tests.support.copies import copy_repository, execute, run

LINT_IMPORTS = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


@pytest.mark.slow
def test_a_new_resource_passes_its_tests(tmp_path: Path) -> None:
    copy_repository(tmp_path)

    run(tmp_path, "scripts/new_resource.py", "delivery_notes")

    assert "passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/delivery_notes")
    folders = ["app/main.py", "app/delivery_notes", "tests/delivery_notes", "alembic"]
    run(tmp_path, "-m", "ruff", "format", "--check", *folders)
    run(tmp_path, "-m", "ruff", "check", *folders)
    run(tmp_path, "-m", "mypy", "app/delivery_notes", "tests/delivery_notes")
    run(tmp_path, "-c", LINT_IMPORTS)


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("statuses", "status"),
        ("aliases", "alias"),
        ("purchases", "purchase"),
        ("warehouses", "warehouse"),
        ("addresses", "address"),
        ("batches", "batch"),
        ("boxes", "box"),
        ("categories", "category"),
        ("delivery_notes", "delivery_note"),
    ],
)
def test_the_singular_is_guessed(many: str, one: str) -> None:
    assert singular(many) == one


@pytest.mark.parametrize("words", ["an order", "a shipment", "an update", "a unit", "a user", "an umbrella"])
def test_the_article_is_that_of_the_word(words: str) -> None:
    article, one = words.split()

    assert names_of(f"{one}s", one)["a"] == article


def test_a_name_that_is_only_an_attribute_elsewhere_is_accepted() -> None:
    for name in ("codes", "shipments"):
        check(name, singular(name))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("class", "must be a plural"),
        ("address", "must be a plural"),
        ("Orders", "must be a plural"),
        ("lambdas", "lambda is a word of Python's"),
        ("types", "type is a word of Python's"),
        ("keys", "the files use the name key"),
        ("resources", "the files use the name Resource"),
        ("settings", "app/main.py uses the name"),
    ],
)
def test_what_cannot_be_written_is_refused(name: str, problem: str) -> None:
    with pytest.raises(SystemExit, match=problem):
        check(name, singular(name))


def test_a_table_that_exists_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"database/idempotency\.py has a table of this name"):
        check("idempotency_keys", "record")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    copy_repository(tmp_path)
    (tmp_path / "scripts" / "migrate.py").write_text("raise SystemExit('migrate: no server')")
    former = contents(tmp_path)

    said = execute(tmp_path, sys.executable, "scripts/new_resource.py", "statuses", status=1)

    reason = f"{tmp_path}/scripts/migrate.py new create statuses"
    nothing = f"new-resource: statuses: nothing was written, because this failed: {reason}"
    assert said.splitlines() == ["migrate: no server", nothing]
    assert contents(tmp_path) == former


@pytest.mark.parametrize("between", ["", "\n", "    # Reworded.\n", "\n    # Two\n    # lines.\n"])
def test_the_routers_of_features_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str) -> None:
    monkeypatch.setattr(new_resource, "ROOT", tmp_path)
    first, last = ("    app.include_router(first.router)\n", "    app.include_router(health.router)\n")
    (tmp_path / "main.py").write_text(first + between + last)

    new_resource._insert("main.py", new_resource._AFTER_THE_ROUTERS, "    second\n")

    assert (tmp_path / "main.py").read_text() == f"{first}    second\n{between}{last}"


def contents(folder: Path) -> dict[Path, bytes]:
    """Read every file but what Python has compiled."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
