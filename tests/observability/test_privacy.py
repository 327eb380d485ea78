"""What is slow is logged with its text; and nothing that a client or an operator would not like to see there."""

import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
import pytest
from sqlalchemy import Connection, text

from tests.conftest import SQL, MakeClient, StartService
from tests.support.cluster import query
from tests.support.routes import serve
from tests.support.service import eventually

pytestmark = pytest.mark.slow

Logs = Callable[[], list[dict[str, Any]]]


def _slow(connection: Connection) -> None:
    connection.execute(text("SELECT pg_sleep(:seconds), :secret"), {"seconds": 1.1, "secret": "s3cret"})


def _quick(connection: Connection) -> None:
    connection.execute(text("SELECT :secret"), {"secret": "s3cret"})


def test_a_slow_statement_is_logged_with_its_text_and_without_values(make_client: MakeClient, logs: Logs) -> None:
    client = make_client(db_slow_statement=1)
    serve(client, "/slow", _slow)
    serve(client, "/quick", _quick)
    client.get("/slow", headers={"X-Trace-ID": "slow-1"})
    client.get("/quick")

    [line] = [line for line in logs() if line["message"] == "slow statement"]
    assert line["level"] == "WARNING"
    assert line["trace_id"] == "slow-1"
    assert line["statement"] == "SELECT pg_sleep(%(seconds)s), %(secret)s"
    assert 1100 <= line["duration_ms"] < 100_000
    assert "s3cret" not in str(logs())


def test_a_statement_that_fails_late_is_logged_too(make_client: MakeClient, logs: Logs) -> None:
    client = make_client(db_slow_statement=0.1, db_statement_timeout=0.2)
    serve(client, "/slow", lambda connection: connection.execute(text("SELECT pg_sleep(5)")))

    assert client.get("/slow").status_code == 503

    assert "SELECT pg_sleep(5)" in [line["statement"] for line in logs() if line["message"] == "slow statement"]


def test_the_bound_may_be_off(make_client: MakeClient, logs: Logs) -> None:
    client = make_client(db_slow_statement=0)
    serve(client, "/slow", _slow)
    client.get("/slow")

    assert not [line for line in logs() if line["message"] == "slow statement"]


def test_a_whole_run_s_log_holds_no_secret_and_nothing_of_what_was_sent(
    start_service: StartService, own_database_url: str, superuser_url: str, sql: SQL
) -> None:
    """Everything that can go wrong goes wrong, at the most talkative level, with every statement slow."""
    del sql  # it empties the shared tables; this test has its own
    password, said = secrets.token_hex(12), []

    def word() -> str:
        said.append("W" + secrets.token_hex(8))
        return said[-1]

    # A role of its own, so that its password can be looked for.
    role = "r" + secrets.token_hex(4)
    query(superuser_url, f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'")
    try:
        parts = urlsplit(own_database_url)
        url = urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}"))
        service = start_service(
            DATABASE_URL=url, LOG_LEVEL="DEBUG", DB_SLOW_STATEMENT="0.000001", MAX_BODY_BYTES="4000", DRAIN_SECONDS="0"
        )
        client = service.client
        thing = {"name": word(), "price": 917.53, "description": word()}
        created = client.post("/things", json=thing, headers={"Idempotency-Key": word(), "Authorization": word()})
        assert created.status_code == 201
        path = created.headers["location"]
        key = word()
        for body in (thing, {**thing, "name": word()}, thing):  # a replay, and a key that is used for another body
            client.post("/things", json=body, headers={"Idempotency-Key": key})
        client.post("/things/batch", json={"items": [thing, {"name": word(), "price": 1}]})
        client.patch(path, json={"description": word()}, headers={"If-Match": f'"{word()}"', "Cookie": word()})
        client.patch(path, json={"description": word()})
        client.get("/things", params={"name": word(), "cursor": word(), word(): word()})
        client.get("/things", params={"name": word()})
        client.post("/things", json={"name": word() + "-", "price": word(), word(): word()})
        client.post("/things", content=word(), headers={"Content-Type": "application/json"})
        client.post("/things", content=(word() * 400)[:5000], headers={"Content-Type": "application/json"})
        client.post("/things", content=word(), headers={"Content-Type": f"text/{word()}"})
        client.get("/things/1/stock", params={"x": word()}, headers={"X-Trace-ID": "a b" + word()})
        service.raw(f"{word().upper()} / HTTP/1.1\r\nHost: {word()}\r\n\r\n".encode())
        said[-2] = said[-2].upper()
        # A constraint that is refused with the row in its DETAIL, and a table that is gone.
        query(own_database_url, "ALTER TABLE things ADD CONSTRAINT shorter CHECK (length(name) < 5)  NOT VALID")
        client.post("/things", json={**thing, "name": word()})
        query(own_database_url, "ALTER TABLE things RENAME TO gone")
        assert client.post("/things", json={**thing, "name": word()}).status_code == 503
        query(own_database_url, "ALTER TABLE gone RENAME TO things")
        # The password is wrong from now on, and every connection is gone.
        query(superuser_url, f"ALTER ROLE {role} PASSWORD 'another'")
        query(superuser_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role])
        eventually(lambda: client.get("/health/ready").status_code in {200, 503})
        client.post("/things", json={**thing, "name": word()})
        time.sleep(0.2)
        assert service.stop() == 0

        log = service.log.read_text()
        assert "slow statement" in log
        assert "database error" in log
        assert len(said) > 30
        assert [secret for secret in [*said, password, "917.53"] if secret in log] == []
    finally:
        query(superuser_url, f"ALTER ROLE {role} NOLOGIN")


def test_probes_are_quiet(start_service: StartService) -> None:
    service = start_service()
    httpx2.get(f"{service.url}/metrics", trust_env=False, timeout=60)
    httpx2.get(f"{service.url}/health/ready", trust_env=False, timeout=60)

    assert not [line for line in service.lines() if line["logger"] == "app.access"]
