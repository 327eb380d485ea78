"""The composition: what is there, and what is not."""

from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from app import __version__
from app.core.routes import RouteTable
from tests.support.service import ROOT

ROUTES = {
    "/health/live": {"GET"},
    "/health/ready": {"GET"},
    "/metrics": {"GET"},
    "/items": {"GET", "POST"},
    "/items/batch": {"POST"},
    "/items/{item_id}": {"GET", "PATCH", "DELETE"},
    "/items/{item_id}/stock": {"GET"},
}


def test_the_routes_are_the_contract_s(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = {path: {method.upper() for method in methods} for path, methods in document["paths"].items()}

    assert described.items() <= ROUTES.items()
    assert {path for path in ROUTES if path.startswith("/items")} <= described.keys()
    assert document["info"]["version"] == __version__


def test_every_route_has_its_own_label(client: TestClient) -> None:
    routes: RouteTable = client.app.state.routes  # type: ignore[attr-defined]

    assert ROUTES.keys() <= routes.methods.keys()
    contexts = [c for c in iter_route_contexts(client.app.routes) if c.endpoint is not None]  # type: ignore[attr-defined]
    assert contexts
    assert all(c.endpoint in routes.templates for c in contexts if c.endpoint)


def _imports(file: Path) -> list[str]:
    words = [line.split() for line in file.read_text().splitlines()]
    return [word[1] for word in words if len(word) > 1 and word[0] in {"from", "import"}]


@pytest.mark.parametrize("file", sorted((ROOT / "app").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_arrows_run_one_way(file: Path) -> None:
    """Main knows the features, features know core; core knows no feature, and one feature no other."""
    room = file.relative_to(ROOT / "app").parts[0]
    allowed = {"main.py": None, "core": {"core"}, "server": {"server", "core"}}.get(room, {room, "core"})
    if allowed is None:
        return

    rooms = {module.split(".")[1] for module in _imports(file) if module.startswith("app.")}

    assert rooms <= allowed
