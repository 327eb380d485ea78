"""Fixtures of the tests of the API: another service, and common requests."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import StartService, running_service
from tests.support.cluster import Cluster, query
from tests.support.service import Service


class Inventory(http.server.ThreadingHTTPServer):
    """An inventory service that shares our ids: it has three of every item that there is."""

    daemon_threads = True

    def __init__(self, database_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _InventoryHandler)
        self.database_url = database_url


class _InventoryHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Inventory

    def do_GET(self) -> None:
        """Answer `/stock/{id}`."""
        item_id = int(self.path.rpartition("/")[2])
        known = query(self.server.database_url, "SELECT 1 FROM items WHERE id = %s", (item_id,))
        body = json.dumps({"quantity": 3} if known else {}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


APP = "app.main:app"


@pytest.fixture
def served() -> str:
    """Name what these tests are about: the application as it is deployed."""
    return APP


@pytest.fixture(scope="session")
def service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run it, with two workers, for all of them."""
    folder = tmp_path_factory.mktemp("service")
    with cluster.database() as url, running_service(folder, app=APP, DATABASE_URL=url) as service:
        service.wait_for_workers(2)
        yield service


@pytest.fixture
def inventory_url(database_url: str) -> Iterator[str]:
    """Run an inventory service."""
    with Inventory(database_url) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def whole_service(start_service: StartService, inventory_url: str) -> Service:
    """Run the service with two workers and with everything that it can be given; its tables are empty."""
    service = start_service(INVENTORY_URL=inventory_url)
    service.wait_for_workers(2)
    return service
