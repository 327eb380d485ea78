"""`scripts/adopt` and docs/upgrade.md, each in a copy of the repository."""

import shutil
from pathlib import Path

import pytest

from app import __title__
from tests.support.copies import copy_repository, execute, git, run

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

# What a change in any of the files could break, and takes seconds.
_CHECKS: list[list[str]] = [
    ["-m", "ruff", "format", "--check", "--quiet", "."],
    ["-m", "ruff", "check", "--quiet", "."],
    ["-m", "mypy"],
    ["-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"],
]


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def check(folder: Path, *tests: str) -> None:
    """Run the quick checks of `scripts/test`, and some tests, with this Python."""
    for words in (*_CHECKS, ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]):
        run(folder, *words)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Copy what git has, and what it would take, into a repository of its own."""
    folder = tmp_path / "template"
    copy_repository(folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "The template")
    return folder


@pytest.fixture
def copy(template: Path, tmp_path: Path) -> Path:
    """Clone the template, as somebody does who adopts it."""
    git(tmp_path, "clone", "--quiet", str(template), "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("name", ["Orders", "orders_service", "orders-", "or--ders", "1orders", "", "o" * 41])
def test_a_bad_name_gets_one_line(copy: Path, name: str) -> None:
    said = execute(copy, "scripts/adopt", name, status=1)

    assert said.startswith("adopt: invalid name"), said
    assert said.count("\n") == 1
    assert git(copy, "status", "--porcelain") == ""


def test_uncommitted_changes_are_not_mixed_with_its_own(copy: Path) -> None:
    (copy / "README.md").write_text("mine")

    assert "uncommitted changes" in execute(copy, "scripts/adopt", "orders-service", status=1)
    assert (copy / "README.md").read_text() == "mine"


def test_nothing_has_the_name_of_the_template_afterwards(copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service")

    words = __title__.split("-")
    pattern = "[-_ ]?".join(words)
    assert git(copy, "grep", "-iE", pattern, status=1) == ""
    assert not (copy / "bench").exists()
    assert '__title__ = "orders-service"' in (copy / "app/__init__.py").read_text()


def test_twice_is_harmless(copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service")
    commit(copy, "Adopt")

    assert "already" in execute(copy, "scripts/adopt", "orders-service")
    assert git(copy, "status", "--porcelain") == ""


def test_without_items_the_application_is_whole(copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service", "--without-items")

    assert git(copy, "grep", "-nE", "app.items|[\"'(]/items", "--", "app", "tests", "pyproject.toml", status=1) == ""
    run(copy, "-m", "ruff", "check", "--quiet", "app")
    paths = "import app.main; print(*app.main.app.openapi()['paths'])"
    assert "/health/live" in run(copy, "-c", f"import os; os.environ['DATABASE_URL'] = 'postgresql://o/o'; {paths}")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--without-items",)])
def test_a_copy_passes_its_checks(copy: Path, options: tuple[str, ...]) -> None:
    execute(copy, "scripts/adopt", "orders-service", *options)
    commit(copy, "Adopt")

    check(
        copy,
        "tests/docs",
        "tests/test_main.py",
        "tests/test_migrations.py",
        "tests/core/resources",
        "tests/core/test_config.py",
        "tests/observability/test_rules.py",
        "tests/deploy/test_compose.py",
    )


@pytest.mark.slow
def test_a_release_of_the_template_merges_without_a_conflict(template: Path, copy: Path) -> None:
    """The copy has a name and a resource of its own; the release changes core, a manifest, an alert and a page."""
    execute(copy, "scripts/adopt", "orders-service")
    run(copy, "scripts/new_resource.py", "orders")
    commit(copy, "Orders")
    edits = {
        "app/core/lifecycle.py": ("class ", "RELEASED = True\n\n\nclass "),
        "deploy/kubernetes/base/deployment.yaml": ("revisionHistoryLimit: 5", "revisionHistoryLimit: 6"),
        "deploy/prometheus/rules/alerts.yml": ("for: 1m", "for: 90s"),
        "docs/operations.md": ("# Operations", "# Operations\n\nReleased."),
        "CHANGELOG.md": ("## Unreleased", "## Unreleased\n\nReleased."),
    }
    for name, (before, after) in edits.items():
        text = (template / name).read_text()
        assert before in text, name
        (template / name).write_text(text.replace(before, after, 1))
    commit(template, "A release")
    git(template, "tag", "v9.9.9")

    git(copy, "config", "merge.ours.driver", "true")
    git(copy, "fetch", "--quiet", "--tags", "origin")
    git(copy, "merge", "--quiet", "--message", "Upgrade", "v9.9.9")

    assert "RELEASED" in (copy / "app/core/lifecycle.py").read_text()
    assert "Released." not in (copy / "CHANGELOG.md").read_text()
    assert "orders-service" in (copy / "deploy/kubernetes/base/kustomization.yaml").read_text()
    check(copy, "tests/docs", "tests/core/test_config.py", "tests/orders", "tests/test_migrations.py")
