"""`docs/add-a-resource.md` works as it stands: it is followed in a copy, and what comes out is tested there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    """Each feature is one new folder, one migration, one folder of tests, and its lines in two files."""
    former = contents(copy)

    said = guide.follow(copy)

    assert "passed" in said[-1]
    assert "skipped" not in said[-1]
    added, edited = changed(copy, former)
    assert edited == {"app/main.py", "pyproject.toml"}
    lines = (copy / "app/main.py").read_text().splitlines()
    for feature in ("orders", "sales"):
        lines.remove(f"from app.{feature} import router as {feature}")
        lines.remove(f"    app.include_router({feature}.router)")
    lines.remove("    app.include_router(orders.of_items)")
    assert lines == former["app/main.py"].decode().splitlines()
    features = {f"{part}/{feature}" for part in ("app", "tests") for feature in ("orders", "sales")}
    assert {str(Path(name).parent) for name in added} == {*features, "alembic/versions"}
    assert len([name for name in added if name.startswith("alembic/")]) == 2

    # In the project's style, and of the right types.
    folders = ["app/main.py", *sorted(features), "alembic"]
    guide.run(copy, "-m", "ruff", "format", "--check", *folders)
    guide.run(copy, "-m", "ruff", "check", *folders)
    guide.run(copy, "-m", "mypy", *sorted(features))
    guide.run(
        copy, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    )


DOCUMENTED = """
import json
import os
os.environ["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/nowhere"
from app.main import app
print(json.dumps(app.openapi()))
"""


def answers(operations: dict[str, Any]) -> set[tuple[str, ...]]:
    """List the answers of operations: method, status and header fields."""
    return {
        (method, status, *sorted(answer["headers"]))
        for method, operation in operations.items()
        for status, answer in operation["responses"].items()
    }


def test_the_resource_is_documented_as_items_are(copy: Path) -> None:
    if not (copy / "app" / "orders").exists():
        guide.follow(copy)
    paths = json.loads(guide.run(copy, "-c", DOCUMENTED))["paths"]

    for items, orders in (("/items", "/orders"), ("/items/{item_id}", "/orders/{order_id}")):
        # An order may be for an unknown item; an item may be one that orders refer to.
        different = {("patch", "409", "X-Trace-ID"), ("delete", "409", "X-Trace-ID")}
        assert (answers(paths[items]) ^ answers(paths[orders])) - different == set()
    leads_to = {path: set(paths[path]["post"]["responses"]["201"]["links"]) for path in ("/items", "/orders")}
    assert leads_to["/orders"] == {"get_order", "patch_order", "delete_order", "send"}
    assert leads_to["/items"] >= {"get_item", "patch_item", "delete_item", "list_orders_of_item"}


WRONG = """
from app.core.api import Conditions, PageQuery
from app.core.database import Database
from app.orders.schemas import OrderQuery
from app.orders.store import orders


async def wrong(db: Database, conditions: Conditions) -> None:
    (await orders.get(db, 1)).version
    (await orders.get(db, 1)).verison
    (await orders.update(db, 1, {"status": "paid"})).verison
    (await orders.update(db, 1, {"statsu": "paid"}))
    [order.verison for order in (await orders.list(db, OrderQuery())).items]
    await orders.list(db, PageQuery())
    conditions.checked(orders.get(db, 1))
"""


def test_wrong_names_are_errors_of_type(copy: Path) -> None:
    if not (copy / "app" / "orders").exists():
        guide.follow(copy)
    (copy / "app" / "orders" / "wrong.py").write_text(WRONG)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "app/orders/wrong.py"],
        check=False,
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=900,
    )

    wrong = {int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line}
    assert wrong == {10, 11, 12, 13, 14, 15}, checked.stdout
