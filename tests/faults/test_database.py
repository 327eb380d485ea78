"""Faults of the database and of the way to it, under load: quick ones."""

import time

import pytest

from tests.faults.conftest import MOMENT, Report, StartService
from tests.faults.history import History
from tests.faults.postgresql import PostgreSQL
from tests.support.errors import assert_error
from tests.support.proxy import Cut, Proxy
from tests.support.service import eventually

pytestmark = pytest.mark.slow

NEW = {"name": "x", "price": 1}


def test_a_database_that_hangs_is_left_in_time_and_takes_no_threads_with_it(
    postgresql: PostgreSQL, database: str, start: StartService, report: Report
) -> None:
    service = start(database, DB_STATEMENT_TIMEOUT="1")
    with History(service.url).going_on() as history:
        history.wait_for(100)
        with postgresql.hanging():  # for as long as the block lasts
            for answer in (service.client.get("/things/1"), service.client.post("/things", json=NEW)):
                assert_error(answer, 503, "DATABASE_ERROR")
            eventually(lambda: service.client.get("/health/ready").status_code == 503)
            assert service.client.get("/health/live").status_code == 200
        ended = time.monotonic()
        eventually(lambda: service.client.get("/health/ready").status_code == 200)
        eventually(lambda: history.first_write_after(ended) is not None)
        history.wait_until_well()
    verdict = report(history.judge("PostgreSQL stopped (SIGSTOP), statement timeout 1 s", database, ended=ended))
    # 1 s statement timeout + 2 s margin + a look every 0.5 s; a wait for a turn (5 s) may come before.
    assert verdict.worst < 8.5 + MOMENT
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT


@pytest.mark.parametrize(
    ("pattern", "cut"),
    [(b"INSERT INTO things", Cut.IN_STATEMENT), (b"INSERT INTO things", Cut.AFTER_COMMIT)],
    ids=["in the statement", "after the commit"],
)
def test_connections_that_break_at_the_worst_moment(
    network: Proxy, database: str, start: StartService, report: Report, pattern: bytes, cut: Cut
) -> None:
    service = start(network.url, DB_POOL_TIMEOUT="60")
    with History(service.url, reads=0.2).going_on() as history:
        history.wait_for(50)
        for cuts in range(2, 18, 2):
            network.cut(pattern, cut, times=2)
            eventually(lambda cuts=cuts: network.cuts == cuts)  # type: ignore[misc]
            history.wait_for(50)
        ended = time.monotonic()
        history.wait_until_well()
    verdict = report(history.judge(f"connection cut: {cut.value}, {network.cuts} times", database, ended=ended))
    assert verdict.worst < MOMENT


def test_a_commit_whose_answer_is_lost(network: Proxy, start: StartService) -> None:
    """With a key it is repeated and answered from the first time; without one it is 503, and is not repeated."""
    service = start(network.url)
    network.cut(b"INSERT INTO things", Cut.AFTER_COMMIT)
    keyed = service.client.post("/things", json={"name": "keyed", "price": 1}, headers={"Idempotency-Key": "k"})
    network.cut(b"INSERT INTO things", Cut.AFTER_COMMIT)
    plain = service.client.post("/things", json={"name": "plain", "price": 1})
    thing = service.client.post("/things", json={"name": "patched", "price": 1})
    tag = {"If-Match": thing.headers["ETag"]}
    network.cut(b"UPDATE things", Cut.AFTER_COMMIT)
    patch = service.client.patch(thing.headers["Location"], json={"price": 2}, headers=tag)
    assert network.cuts == 3
    assert (keyed.status_code, keyed.headers.get("Idempotent-Replayed")) == (201, "true")
    assert_error(plain, 503, "DATABASE_ERROR")
    assert_error(patch, 503, "DATABASE_ERROR")
    names = [thing["name"] for thing in service.client.get("/things").json()["items"]]
    assert sorted(names) == ["keyed", "patched", "plain"]
    assert service.client.get(thing.headers["Location"]).json()["price"] == 2


def test_a_read_whose_connection_breaks_is_repeated(network: Proxy, start: StartService) -> None:
    service = start(network.url)
    location = service.client.post("/things", json=NEW).headers["Location"]
    for _ in range(5):
        network.cut(b"SELECT things", Cut.AFTER_COMMIT)
        assert service.client.get(location).status_code == 200
    assert network.cuts == 5


def test_resets_and_terminated_sessions(
    postgresql: PostgreSQL, network: Proxy, database: str, start: StartService, report: Report
) -> None:
    service = start(network.url, DB_POOL_TIMEOUT="60")
    with History(service.url).going_on() as history:
        for _ in range(6):
            history.wait_for(100)
            network.reset()
            history.wait_for(100)
            assert postgresql.terminate_backends()
        ended = time.monotonic()
        history.wait_until_well()
    verdict = report(history.judge("6 x every connection reset, every session terminated", database, ended=ended))
    assert verdict.worst < MOMENT
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT


def test_a_database_that_refuses_is_503_at_once_and_served_at_once_when_it_is_back(
    network: Proxy, database: str, start: StartService, report: Report
) -> None:
    service = start(network.url, DB_POOL_TIMEOUT="60")
    with History(service.url).going_on() as history:
        history.wait_for(50)
        network.refuse()
        eventually(lambda: service.client.get("/health/ready").status_code == 503)
        assert_error(service.client.post("/things", json=NEW), 503, "DATABASE_ERROR")
        history.wait_for(100)
        network.accept()
        ended = time.monotonic()
        eventually(lambda: service.client.get("/health/ready").status_code == 200)
        history.wait_until_well()
    verdict = report(history.judge("connections refused, 1 s", database, ended=ended))
    assert verdict.worst < MOMENT
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT
