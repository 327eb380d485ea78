"""`scripts/adopt` and docs/upgrade.md, each in a copy of the repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

from app import __title__
from tests.support.copies import copy_repository
from tests.support.copies import run as python

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

_IDENTITY = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
# What a change in any of the files could break, and takes seconds.
_CHECKS: list[list[str]] = [
    ["-m", "ruff", "format", "--check", "--quiet", "."],
    ["-m", "ruff", "check", "--quiet", "."],
    ["-m", "mypy"],
    ["-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"],
]


def run(folder: Path, *command: str, status: int = 0) -> str:
    """Run a command in a copy, and return what it printed."""
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(folder: Path, *words: str, status: int = 0) -> str:
    return run(folder, "git", *_IDENTITY, *words, status=status)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def check(folder: Path, *tests: str) -> None:
    """Run the quick checks of `scripts/test`, and some tests, with this Python."""
    for words in (*_CHECKS, ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]):
        python(folder, *words)


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
    said = run(copy, "scripts/adopt", name, status=1)

    assert said.startswith("adopt: invalid name"), said
    assert said.count("\n") == 1
    assert git(copy, "status", "--porcelain") == ""


def test_uncommitted_changes_are_not_mixed_with_its_own(copy: Path) -> None:
    (copy / "README.md").write_text("mine")

    assert "uncommitted changes" in run(copy, "scripts/adopt", "orders-service", status=1)
    assert (copy / "README.md").read_text() == "mine"


def test_nothing_has_the_name_of_the_template_afterwards(copy: Path) -> None:
    run(copy, "scripts/adopt", "orders-service")

    words = __title__.split("-")
    pattern = "[-_ ]?".join(words)
    assert git(copy, "grep", "-iE", pattern, status=1) == ""
    assert not (copy / "bench").exists()
    assert '__title__ = "orders-service"' in (copy / "app/__init__.py").read_text()


def test_twice_is_harmless(copy: Path) -> None:
    run(copy, "scripts/adopt", "orders-service")
    commit(copy, "Adopt")

    assert "already" in run(copy, "scripts/adopt", "orders-service")
    assert git(copy, "status", "--porcelain") == ""


def test_without_items_the_application_is_whole(copy: Path) -> None:
    run(copy, "scripts/adopt", "orders-service", "--without-items")

    assert git(copy, "grep", "-n", "app.items", "--", "app", "pyproject.toml", status=1) == ""
    python(copy, "-m", "ruff", "check", "--quiet", "app")
    paths = "import app.main; print(*app.main.app.openapi()['paths'])"
    assert "/health/live" in python(copy, "-c", f"import os; os.environ['DATABASE_URL'] = 'postgresql://o/o'; {paths}")


@pytest.mark.slow
def test_a_copy_passes_its_checks(copy: Path) -> None:
    run(copy, "scripts/adopt", "orders-service")
    commit(copy, "Adopt")

    check(
        copy,
        "tests/docs",
        "tests/core/test_config.py",
        "tests/observability/test_rules.py",
        "tests/deploy/test_compose.py",
    )


@pytest.mark.slow
def test_a_release_of_the_template_merges_without_a_conflict(template: Path, copy: Path) -> None:
    """The copy has a name and a resource of its own; the release changes core, a manifest, an alert and a page."""
    run(copy, "scripts/adopt", "orders-service")
    (copy / "app/orders").mkdir()
    (copy / "app/orders/__init__.py").write_text('"""Orders."""\n')
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
    check(copy, "tests/docs", "tests/core/test_config.py")
