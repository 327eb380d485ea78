"""Probes: alive whatever the database does, ready while it answers, and at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.testclient import TestClient

from app.core.database import HealthCheck
from app.core.database.database import Mode
from app.core.lifecycle import lifecycle
from tests.conftest import MakeClient
from tests.support.cluster import connected, run
from tests.support.errors import assert_error
from tests.support.proxy import Proxy
from tests.support.service import eventually

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def status(client: TestClient) -> int:
    """Ask for readiness and for liveness."""
    response = client.get("/health/ready")
    if response.status_code != 200:
        assert_error(response, 503, "DATABASE_ERROR")
    assert client.get("/health/live").json() == {"status": "alive"}
    return response.status_code


def test_alive_and_ready(client: TestClient) -> None:
    for path, body in {"/health/live": {"status": "alive"}, "/health/ready": {"status": "ready"}}.items():
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, body)
        assert client.head(path).status_code == 200


def test_readiness_follows_the_database(make_client: MakeClient, proxy: Proxy) -> None:
    proxy.refuse()
    client = make_client(database_url=proxy.url)
    assert status(client) == 503
    for _ in range(2):
        proxy.accept()
        eventually(lambda: status(client) == 200)
        proxy.refuse()
        eventually(lambda: status(client) == 503)


def test_a_database_that_swallows_everything_is_not_ready(make_client: MakeClient, proxy: Proxy) -> None:
    client = make_client(database_url=proxy.url)
    eventually(lambda: status(client) == 200)
    proxy.swallow()
    eventually(lambda: status(client) == 503)
    assert status(client) == 503
    time.sleep(1.1)
    assert status(client) == 503

    proxy.deliver()

    eventually(lambda: status(client) == 200)


def test_a_connection_that_leads_nowhere_is_given_up(make_client: MakeClient, proxy: Proxy) -> None:
    client = make_client(database_url=proxy.url)
    eventually(lambda: status(client) == 200)
    proxy.strand()

    eventually(lambda: status(client) == 503)
    eventually(lambda: status(client) == 200)


def test_a_database_that_swallows_the_very_first_packet_is_not_ready_in_time(
    make_client: MakeClient, proxy: Proxy
) -> None:
    proxy.swallow()
    client = make_client(database_url=proxy.url)

    assert status(client) == 503
    time.sleep(1.1)
    assert status(client) == 503
    proxy.deliver()

    eventually(lambda: status(client) == 200)


def test_the_database_is_asked_at_most_once_a_second(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    ask = HealthCheck._ask

    client = make_client()
    app = client.app
    assert isinstance(app, FastAPI)

    def counted(self: HealthCheck) -> bool:
        if self is app.state.health_check:  # other apps of this process ask as well
            asked.append(time.monotonic())
        return ask(self)

    monkeypatch.setattr(HealthCheck, "_ask", counted)
    end = time.monotonic() + 120

    def keep_asking(_: int) -> set[int]:
        answers = set()
        while len(asked) < 3 and time.monotonic() < end:
            answers.add(client.get("/health/ready").status_code)
        return answers

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(keep_asking, range(4))) == {200}

    assert len(asked) >= 3
    assert all(later - earlier > 0.95 for earlier, later in pairwise(asked))


def test_probes_answer_while_every_connection_is_busy(make_client: MakeClient, database_url: str) -> None:
    client = make_client(db_pool_size=2)
    assert client.portal
    database: Any = client.app.state.database  # type: ignore[attr-defined]
    with connected(database_url) as other:
        run(other, "SELECT pg_advisory_lock(1)")
        busy = [
            client.portal.start_task_soon(
                database.run, Mode.READ, lambda c: c.execute(text("SELECT pg_advisory_lock_shared(1)"))
            )
            for _ in range(6)
        ]
        eventually(lambda: run(other, WAITING) == [(2,)])

        for path in ("/health/live", "/health/ready", "/metrics"):
            assert client.get(path).status_code == 200

        assert not any(future.done() for future in busy)
        run(other, "SELECT pg_advisory_unlock(1)")
        for future in busy:
            future.result(20)


def test_draining_is_alive_and_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "draining", True)

    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/ready").headers["retry-after"]
    assert client.get("/health/live").status_code == 200
    assert client.get("/things").status_code == 200
