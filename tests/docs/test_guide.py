"""`docs/add-a-resource.md` works as it stands: it is followed in a copy, and what comes out is tested there."""

from pathlib import Path

import pytest

from tests.docs import guide
from tests.support.service import ROOT

pytestmark = pytest.mark.slow


def changed(folder: Path, former: dict[str, bytes]) -> tuple[set[str], set[str]]:
    """List what was added to a folder, and what was changed."""
    now = contents(folder)
    return now.keys() - former.keys(), {name for name in now.keys() & former.keys() if now[name] != former[name]}


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file but those that tools leave behind."""
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    names = ((str(file.relative_to(folder)), file) for file in files)
    return {name: file.read_bytes() for name, file in names if not name.startswith((".mypy_cache", ".hypothesis"))}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the repository, unless the guide has been followed in it already."""
    if (ROOT / "app" / "orders").exists():
        pytest.skip("app/orders is there already")
    folder = tmp_path_factory.mktemp("guide") / "repository"
    guide.copy_repository(folder)
    return folder


def test_the_guide_makes_a_resource(copy: Path) -> None:
    """It touches one new folder, one migration, one folder of tests, and two lines."""
    former = contents(copy)

    said = guide.follow(copy)

    assert "passed" in said[-1]
    assert "skipped" not in said[-1]
    added, edited = changed(copy, former)
    assert edited == {"app/main.py"}
    lines = (copy / "app/main.py").read_text().splitlines()
    lines.remove("from app.orders import router as orders")
    lines.remove("    app.include_router(orders.router)")
    assert lines == former["app/main.py"].decode().splitlines()
    assert {str(Path(name).parent) for name in added} == {"app/orders", "tests/orders", "alembic/versions"}
    assert len([name for name in added if name.startswith("alembic/")]) == 1

    # In the project's style, and of the right types.
    folders = ["app/main.py", "app/orders", "tests/orders", "alembic"]
    guide.run(copy, "-m", "ruff", "format", "--check", *folders)
    guide.run(copy, "-m", "ruff", "check", *folders)
    guide.run(copy, "-m", "mypy", "app/orders", "tests/orders")
