"""A damaged system: a PostgreSQL of its own, a network that fails, the service as `scripts/run` starts it.

`scripts/test` runs the quick ones, `scripts/test-faults` all of them; see `docs/reliability.md`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.faults.history import Verdict
from tests.faults.postgresql import PostgreSQL
from tests.support.cluster import prepare, query
from tests.support.proxy import Proxy
from tests.support.service import Service

_verdicts: list[Verdict] = []

Report = Callable[[Verdict], Verdict]

MOMENT = 15.0
"""Seconds in which a busy machine does what is done at once; what is wrong takes a minute, or fails."""


class StartService:
    """Starts services with these environment variables instead of the defaults; they end with the test."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack = folder, stack

    def __call__(self, database_url: str, *, arguments: str = "", **variables: str) -> Service:
        """Start one, and wait until both of its workers serve."""
        service = self.launch(database_url, arguments=arguments, **variables)
        service.wait_for_workers(2)
        return service

    def launch(self, database_url: str, *, arguments: str = "", **variables: str) -> Service:
        """Start one, and wait until it is alive."""
        environment = {
            "DATABASE_URL": database_url,
            "HOST": "127.0.0.1",
            "WEB_CONCURRENCY": "2",
            "DRAIN_SECONDS": "1",
            "SHUTDOWN_TIMEOUT": "10",
            "GUNICORN_CMD_ARGS": arguments,
            **variables,
        }
        service = Service(self._folder, environment)
        self._stack.callback(self._end, service)
        service.wait_until_alive()
        return service

    @staticmethod
    def _end(service: Service) -> None:
        with contextlib.suppress(Exception):
            service.stop()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """Run a durable PostgreSQL that nobody else uses: it will be hurt."""
    with PostgreSQL.running(tmp_path_factory.mktemp("hurt")) as server:
        prepare(server.url)
        yield server


@pytest.fixture
def database(postgresql: PostgreSQL) -> str:
    """Name its database, with empty tables."""
    query(postgresql.url, "TRUNCATE things, idempotency_keys RESTART IDENTITY CASCADE")
    return postgresql.url


@pytest.fixture
def network(database: str) -> Iterator[Proxy]:
    """Stand between the service and the database."""
    with contextlib.closing(Proxy(database)) as network:
        yield network


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartService]:
    """Start services; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield StartService(tmp_path, stack)


@pytest.fixture
def report() -> Report:
    """Put a verdict into the table, and insist on what holds whatever happens: nothing lost, nothing twice."""

    def add(verdict: Verdict) -> Verdict:
        _verdicts.append(verdict)
        assert verdict.wrong == []
        assert (verdict.lost, verdict.repeated) == (0, 0), verdict
        assert verdict.acknowledged > 0
        return verdict

    return add


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the table, and keep it where `FAULTS_TABLE` says."""
    if not _verdicts:
        return
    heads = ("fault", "sent", "acknowledged", "lost", "repeated", "failed", "worst s", "recovered s", "what failed")
    rows = [heads, tuple("---" for _ in heads)]
    for v in _verdicts:
        recovered = "" if v.recovered is None else f"{v.recovered:.2f}"
        numbers = (v.sent, v.acknowledged, v.lost, v.repeated, v.failed)
        rows.append((v.fault, *map(str, numbers), f"{v.worst:.2f}", recovered, v.note))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)
    if file := os.environ.get("FAULTS_TABLE"):
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
