"""A service a test, and what holds for each of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import Connection
from tests.support.service import Service, eventually

APP = "tests.server.asgi_app:app"
DEFAULTS = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "WEB_CONCURRENCY": "1",
    "DRAIN_SECONDS": "0",
    "SHUTDOWN_TIMEOUT": "2",
}

Start = Callable[..., Service]


def launch(folder: Path, *, app: str = APP, command: tuple[str, ...] = ("app.server",), **variables: object) -> Service:
    """Start a service of the tests' tiny app, and do not wait for it."""
    return Service(folder, {**DEFAULTS, **{k: str(v) for k, v in variables.items()}}, app=app, command=command)


def worker_of(service: Service) -> tuple[int, str]:
    """Ask for the process id and the slot of the worker that answers."""
    state = service.get("/pid").json
    return state["pid"], state["slot"]


def wait_for_busy(service: Service, requests: int = 1) -> None:
    """Wait until a worker has begun with so many requests."""
    eventually(lambda: service.get("/pid").json["busy"] >= requests)


def access_lines(service: Service, trace_id: str) -> list[dict[str, Any]]:
    """Read the access lines of one request; there should be one, once it has ended."""
    return [line for line in service.lines_of(trace_id) if line["logger"] == "app.access"]


def server_end(connection: Connection) -> list[str]:
    """Return the fields of the server's end in /proc/net/tcp: [3] its state, [4] its queues, [9] its inode."""
    ports = [f"{port:04X}" for _, port in (connection.socket.getpeername(), connection.socket.getsockname())]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next((row for row in rows if [end[-4:] for end in row[1:3]] == ports), [""] * 12)


def sample(service: Service, name: str) -> float:
    """Return the sum of the metrics' samples whose line begins with `name`."""
    lines = service.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start services that are ended, and whose output is checked, after the test."""
    services: list[Service] = []

    def _start(**variables: Any) -> Service:
        services.append(launch(tmp_path_factory.mktemp("service"), **variables))
        return services[-1].wait_until_alive()

    yield _start
    codes = [service.stop() for service in services]
    for service in services:
        service.assert_only_json()
    assert all(code in (0, -9) for code in codes), codes
