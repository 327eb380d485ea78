"""`scripts/adopt` and docs/upgrade.md, each in a copy of the repository."""

import re
import shlex
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

# Files that a release adds to folders that a copy does not have.
_NEW = {
    "template": ["bench/released.py", "tests/bench/test_released.py"],
    "items": ["app/items/released.py", "tests/contract/released.py"],
}
MIGRATION = '''"""{name}."""

from alembic import op

revision = "{number:04}"
down_revision: str | None = "{before:04}"
branch_labels = depends_on = None


def upgrade() -> None:
    op.execute("SELECT 1")


def downgrade() -> None:
    op.execute("SELECT 1")
'''


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


@pytest.mark.parametrize(
    "name", ["Orders", "orders_service", "-orders", "orders-", "or--ders", "1orders", "", "o" * 41]
)
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
    assert git(copy, "grep", "-iE", pattern, "--", ".", ":!LICENSE", status=1) == ""
    assert not (copy / "bench").exists()
    assert '__title__ = "orders-service"' in (copy / "app/__init__.py").read_text()


def test_the_copyright_of_the_template_is_kept(copy: Path) -> None:
    before = (copy / "LICENSE").read_text().splitlines()
    execute(copy, "scripts/adopt", "orders-service")

    [added] = [line for line in (copy / "LICENSE").read_text().splitlines() if line not in before]
    assert re.fullmatch(r"Copyright \(c\) 20\d\d The orders-service authors", added)
    assert set(before) <= set((copy / "LICENSE").read_text().splitlines())


def test_everything_is_staged(copy: Path) -> None:
    said = execute(copy, "scripts/adopt", "orders-service")

    assert "Everything is staged" in said
    git(copy, "commit", "--quiet", "--message", "Adopt")
    assert git(copy, "status", "--porcelain") == ""
    assert "merge=ours" in git(copy, "show", "HEAD:.gitattributes")


def test_a_second_time_says_what_it_did(copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service")
    commit(copy, "Adopt")
    assert "already" in execute(copy, "scripts/adopt", "orders-service")
    assert git(copy, "status", "--porcelain") == ""

    assert execute(copy, "scripts/adopt", "orders-service", "--without-items").startswith("adopt: items are removed.")
    commit(copy, "No items")
    assert "already" in execute(copy, "scripts/adopt", "orders-service", "--without-items")
    assert execute(copy, "scripts/adopt", "sales-service").startswith("adopt: orders-service is now sales-service.")


def test_a_copy_may_keep_the_name_of_the_template(copy: Path) -> None:
    execute(copy, "scripts/adopt", __title__)
    commit(copy, "Adopt")

    assert not (copy / "bench").exists()
    assert "already" in execute(copy, "scripts/adopt", __title__)


def test_a_name_that_contains_the_template_s_is_not_replaced_again(copy: Path) -> None:
    execute(copy, "scripts/adopt", f"line-{__title__}")
    commit(copy, "Adopt")

    assert "already" in execute(copy, "scripts/adopt", f"line-{__title__}")


def test_what_the_copy_wrote_is_left_when_items_are_removed_later(copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service")
    page = copy / "docs/own.md"
    page.write_text(written := "- [Later](later.md)\n\n[Soon](soon.md), at orders-service\n")
    commit(copy, "Adopt: a page with links to pages that come later")

    execute(copy, "scripts/adopt", "orders-service", "--without-items")
    assert page.read_text() == written
    assert "items.md" not in (copy / "README.md").read_text()
    commit(copy, "No items")
    execute(copy, "scripts/adopt", "sales-service")
    assert page.read_text() == written.replace("orders", "sales")


@pytest.mark.parametrize("options", [(), ("--without-items",)])
def test_the_pages_are_those_of_a_service(copy: Path, options: tuple[str, ...]) -> None:
    execute(copy, "scripts/adopt", "orders-service", *options)

    text = (copy / "README.md").read_text()
    assert (copy / "docs/api.md").exists()
    words = ["to be copied", "Clone it", "scripts/bench", *(["items", "load-items", "--demo"] if options else [])]
    assert [word for word in words if re.search(rf"{word}\b", text)] == []
    assert "\n\n\n" not in text
    assert "[test_tokens]" in text
    run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/docs/test_pages.py")


def test_without_items_the_application_is_whole(copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service", "--without-items")

    assert git(copy, "grep", "-nE", "app.items|[\"'(]/items", "--", "app", "tests", "pyproject.toml", status=1) == ""
    pages = (
        "docs/api.md",
        "docs/architecture.md",
        "docs/deploy.md",
        "docs/reliability.md",
        "docs/adr",
        "docker-compose.yml",
    )
    assert git(copy, "grep", "-nwE", "items?", "--", *pages, status=1) == ""
    tools = '^ *(import|from|") *(hypothesis|schemathesis)'
    assert git(copy, "grep", "-nE", tools, "--", "app", "tests", "pyproject.toml", status=1) == ""
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


def release(template: Path) -> None:
    """Change core, the version, a manifest, an alert and pages, add a setting, and files where a copy has none."""
    edits = {
        "app/__init__.py": ('__version__ = "0.1.0"', '__version__ = "9.9.9"'),
        "pyproject.toml": ('version = "0.1.0"', 'version = "9.9.9"'),
        "app/core/lifecycle.py": ("class ", "RELEASED = True\n\n\nclass "),
        "deploy/kubernetes/base/deployment.yaml": ("revisionHistoryLimit: 5", "revisionHistoryLimit: 6"),
        "deploy/kubernetes/overlays/production/kustomization.yaml": ("newTag: 0.1.0", "newTag: 9.9.9"),
        "deploy/prometheus/rules/alerts.yml": ("for: 1m", "for: 90s"),
        "app/core/config.py": (
            "    docs_enabled: bool = True\n",
            "    docs_enabled: bool = True\n    released: int = 9\n",
        ),
        "docs/configuration.md": (" and `/openapi.json` |\n", " and `/openapi.json` |\n| `RELEASED` | 9 | new |\n"),
        ".env.example": ("_TIMEOUT=30\n", "_TIMEOUT=30\n\n# What is new.\n# RELEASED=9\n"),
        "requirements-dev.txt": ("\nhypothesis==", "\nhypothesis==9"),
        "app/main.py": ("    app.include_router(health.router)\n", "    app.include_router(router=health.router)\n"),
        "docs/operations.md": ("For on-call engineers", "Released. For on-call engineers"),
        "CHANGELOG.md": ("## Unreleased", "## Unreleased\n\nReleased."),
    }
    for name, (before, after) in edits.items():
        text = (template / name).read_text()
        assert before in text, name
        (template / name).write_text(text.replace(before, after, 1))
    for name in (*_NEW["template"], *_NEW["items"]):
        (template / name).parent.mkdir(exist_ok=True)
        (template / name).write_text('"""New."""\n')
    versions = template / "alembic/versions"
    last = max(path.name[:4] for path in versions.glob("0*.py"))
    for number, name in ((int(last) + 1, "items_have_a_colour"), (int(last) + 2, "released")):
        (versions / f"{number:04}_{name}.py").write_text(MIGRATION.format(name=name, number=number, before=number - 1))
    (template / "docs/released.md").write_text(f"{__title__}\n")
    commit(template, "A release")
    git(template, "tag", "v9.9.9")


def add_setting(copy: Path) -> None:
    """Do what docs/configuration.md says, for a feature that exists."""
    page = copy / "docs/configuration.md"
    [declared] = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    imported = '"""The settings of the shop."""\n\nfrom app.core.config import EnvironmentSettings\n\n\n'
    (copy / "app/orders/settings.py").write_text(imported + declared)
    table, rest = page.read_text().rsplit("\n|", 1)
    row, rest = rest.split("\n", 1)
    page.write_text(f"{table}\n|{row}\n| `SHOP_CURRENCY` | EUR | currency of the prices |\n{rest}")
    with (copy / ".env.example").open("a") as example:
        example.write("\n# Currency of the prices.\n# SHOP_CURRENCY=EUR\n")


def upgrade(copy: Path) -> str:
    """Follow docs/upgrade.md, and return what `scripts/adopt` says."""
    page = (copy / "docs/upgrade.md").read_text()
    for settings in re.findall(r"^git config .*", page, re.MULTILINE):
        git(copy, *shlex.split(settings, comments=True)[1:])
    git(copy, "fetch", "--quiet", "--tags", "origin")
    git(copy, "merge", "--quiet", "--message", "Upgrade", "v9.9.9")
    said = execute(copy, "scripts/adopt", "orders-service")
    git(copy, "commit", "--quiet", "--amend", "--no-edit")
    return said


@pytest.mark.parametrize("options", [(), ("--without-items",)])
def test_what_a_release_brings_back_is_removed(template: Path, copy: Path, options: tuple[str, ...]) -> None:
    execute(copy, "scripts/adopt", "orders-service", *options)
    own, page = copy / "tests/contract/test_own.py", copy / "docs/own.md"
    written = f"- [Later](later.md), beside {__title__}\n"
    own.parent.mkdir(exist_ok=True)
    own.write_text("")
    page.write_text(written)
    locked = copy / "requirements-dev.txt"
    locked.write_text(re.sub(r"(?m)^hypothesis==.*\n(    --hash.*\n)+", "", locked.read_text()))
    commit(copy, "Adopt: orders")
    release(template)

    said = upgrade(copy)

    assert page.read_text() == written
    assert "\nhypothesis==9" in locked.read_text()
    assert "docs/released.md" in said
    assert (copy / "docs/released.md").read_text() == "orders-service\n"

    for name in _NEW["template"] + (_NEW["items"] if options else []):
        assert name in said
        assert not (copy / name).exists()
    assert options or all((copy / name).exists() for name in _NEW["items"])
    assert own.exists()
    assert [path.name[5:] for path in (copy / "alembic/versions").glob("*colour.py")] == (
        [] if options else ["items_have_a_colour.py"]
    )
    assert "already" in execute(copy, "scripts/adopt", "orders-service")
    git(copy, "switch", "--quiet", "--create", "later")
    (copy / "docs/later.md").write_text(f"{__title__}\n")
    commit(copy, "Later")
    git(copy, "switch", "--quiet", "-")
    git(copy, "merge", "--quiet", "--no-ff", "--message", "Merge later", "later")
    assert "already" in execute(copy, "scripts/adopt", "orders-service")


def test_a_copy_of_a_later_release_has_one_version(template: Path, copy: Path) -> None:
    release(template)
    git(copy, "pull", "--quiet")
    execute(copy, "scripts/adopt", "orders-service")
    commit(copy, "Adopt")

    assert git(copy, "grep", "-lF", "9.9.9", "--", "app", "deploy", "pyproject.toml", status=1) == ""


def test_a_merge_that_is_not_committed_is_left_alone(template: Path, copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service")
    commit(copy, "Adopt")
    release(template)
    git(copy, "fetch", "--quiet", "--tags", "origin")
    git(copy, "-c", "merge.ours.driver=true", "merge", "--quiet", "--no-commit", "v9.9.9")

    assert "commit" in execute(copy, "scripts/adopt", "orders-service", status=1)
    assert (copy / "bench/released.py").exists()


def test_the_upgrade_page_finds_the_commit_that_adopted(copy: Path) -> None:
    execute(copy, "scripts/adopt", "orders-service")
    commit(copy, "Ours")
    [command] = re.findall(r"`git show \$\((git log .*?)\)`", (copy / "docs/upgrade.md").read_text())

    assert execute(copy, *command.split()) == git(copy, "log", "-1", "--format=%h")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--without-items",)])
def test_a_release_of_the_template_merges_without_a_conflict(
    template: Path, copy: Path, options: tuple[str, ...]
) -> None:
    """The copy has a name, a resource and a setting of its own."""
    execute(copy, "scripts/adopt", "orders-service", *options)
    run(copy, "scripts/new_resource.py", "orders")
    add_setting(copy)
    commit(copy, "Orders")
    release(template)

    upgrade(copy)
    run(copy, "scripts/migrate.py", "merge")
    commit(copy, "Merge the migrations")

    assert "RELEASED" in (copy / "app/core/lifecycle.py").read_text()
    for name in ("docs/configuration.md", ".env.example"):
        assert all(setting in (copy / name).read_text() for setting in ("SHOP_CURRENCY", "RELEASED"))
    assert "Released." not in (copy / "CHANGELOG.md").read_text()
    assert "orders-service" in (copy / "deploy/kubernetes/base/kustomization.yaml").read_text()
    overlay = (copy / "deploy/kubernetes/overlays/production/kustomization.yaml").read_text()
    assert "newName: registry.example.com/orders-service" in overlay
    assert "newTag: 9.9.9" in overlay
    check(copy, "tests/docs", "tests/core/test_config.py", "tests/orders", "tests/test_migrations.py")
