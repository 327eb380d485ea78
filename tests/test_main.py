"""The composition: what is there, and what is not."""

import os
import subprocess
import sys

from starlette.testclient import TestClient

from app import __version__
from app.core.middleware.route_table import RouteTable

ROUTES = {
    "/health/live": {"GET"},
    "/health/ready": {"GET"},
    "/metrics": {"GET"},
    "/things": {"GET", "POST"},
    "/things/batch": {"POST"},
    "/things/{thing_id}": {"GET", "PATCH", "DELETE"},
}


def test_the_document_has_the_platform_s_routes_and_a_feature_s(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = {path: {method.upper() for method in methods} for path, methods in document["paths"].items()}

    assert {path: described.get(path) for path in ROUTES} == ROUTES
    assert document["info"]["version"] == __version__


def test_every_route_has_its_own_label(client: TestClient) -> None:
    routes: RouteTable = client.app.state.routes  # type: ignore[attr-defined]

    assert ROUTES.keys() <= routes.methods.keys()


def test_what_only_some_services_use_is_not_loaded_by_all() -> None:
    names = ["httpcore2", "jwt", "cryptography", "opentelemetry.sdk"]
    code = (
        f"import sys, app.core.application, app.core.client; print([name for name in {names} if name in sys.modules])"
    )
    environment = {**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
