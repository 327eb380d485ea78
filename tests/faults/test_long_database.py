"""Faults of the database that take their time: outages, slow and dead networks, crashes, replicas."""

import time

import pytest

from tests.faults.conftest import MOMENT, Report, StartService
from tests.faults.history import History
from tests.faults.postgresql import PostgreSQL
from tests.support.cluster import query
from tests.support.proxy import Proxy
from tests.support.service import Service, eventually, free_port

pytestmark = pytest.mark.slow


def ready(service: Service) -> bool:
    return service.client.get("/health/ready").status_code == 200


def test_an_outage_of_ten_seconds(postgresql: PostgreSQL, database: str, start: StartService, report: Report) -> None:
    service = start(database, DB_POOL_TIMEOUT="60")
    with History(service.url).going_on() as history:
        history.wait_for(100)
        with postgresql.away():
            eventually(lambda: not ready(service))
            time.sleep(10)
        ended = time.monotonic()
        eventually(lambda: ready(service))
        history.wait_until_well()
    verdict = report(history.judge("PostgreSQL away for 10 s", database, ended=ended))
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT
    assert verdict.worst < MOMENT


def test_a_crash_of_postgresql(postgresql: PostgreSQL, database: str, start: StartService, report: Report) -> None:
    service = start(database)
    with History(service.url).going_on() as history:
        for _ in range(3):
            history.wait_until_well()
            postgresql.crash()
            ended = time.monotonic()
        eventually(lambda: ready(service))
        history.wait_until_well()
    verdict = report(history.judge("3 x PostgreSQL stopped at once (immediate) and restarted", database, ended=ended))
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT


def test_a_black_hole(network: Proxy, database: str, start: StartService, report: Report) -> None:
    service = start(network.url)
    with History(service.url).going_on() as history:
        history.wait_for(100)
        network.swallow()
        eventually(lambda: not ready(service))
        time.sleep(12)
        assert service.client.get("/things").status_code == 503
        network.deliver()
        ended = time.monotonic()
        eventually(lambda: ready(service))
        history.wait_until_well()
    verdict = report(history.judge("network swallows everything for 15 s", database, ended=ended))
    # A wait for a turn (5 s), the statement timeout (5 s) and our margin (2 s).
    assert verdict.worst < 12 + MOMENT
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT


def test_a_slow_network(network: Proxy, database: str, start: StartService, report: Report) -> None:
    service = start(network.url, DB_POOL_TIMEOUT="60", DB_STATEMENT_TIMEOUT="60")
    with History(service.url, clients=30).going_on() as history:
        history.wait_for(100)
        network.latency = 0.1
        time.sleep(8)
        network.latency = 0.0
        ended = time.monotonic()
        history.wait_for(100)
    verdict = report(history.judge("each packet 0.1 s late, 8 s", database, ended=ended))
    assert verdict.failed == 0
    assert verdict.worst < MOMENT


def test_a_replica_that_goes_and_comes(
    postgresql: PostgreSQL, network: Proxy, database: str, start: StartService, report: Report
) -> None:
    """The replica here is the primary by another way: reads are seen to take it, and to leave it."""
    service = start(database, DATABASE_REPLICA_URL=f"{network.url}?application_name=replica", DB_STATEMENT_TIMEOUT="1")

    def statements(like: str) -> int:
        rows = query(
            postgresql.url,
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'replica' AND query LIKE %s",
            (like,),
        )
        return len(rows)

    def reads() -> int:
        return statements("%SELECT%")  # a read unit has "SET TRANSACTION READ ONLY" in front

    with History(service.url, reads=0.6).going_on() as history:
        eventually(reads)
        network.refuse()
        time.sleep(3)
        network.accept()
        eventually(reads)
        assert statements("%INSERT%") == 0
        assert history.failures() == {}
        network.swallow()
        time.sleep(8)
        network.deliver()
        ended = time.monotonic()
        eventually(reads)
        history.wait_for(100)
    verdict = report(history.judge("replica refuses for 3 s, then hangs for 8 s", database, ended=ended))
    assert verdict.failed == 0
    assert verdict.worst < 10 + MOMENT


@pytest.mark.parametrize("order", ["dead first", "standby first"])
def test_several_hosts(postgresql: PostgreSQL, database: str, start: StartService, report: Report, order: str) -> None:
    """`libpq` goes on to the next host when one is dead, or is not what `target_session_attrs` asks for."""
    head, _, address = postgresql.url.rpartition("@")
    hosts = (
        f"127.0.0.1:{free_port()},{address}"
        if order == "dead first"
        else address.replace("/", f",127.0.0.1:{free_port()}/")
    )
    service = start(f"{head}@{hosts}?target_session_attrs=read-write")
    with History(service.url).going_on() as history:
        history.wait_for(100)
        if order == "dead first":
            with postgresql.read_only():
                eventually(lambda: not ready(service))
                assert service.client.post("/things", json={"name": "x", "price": 1}).status_code == 503
        ended = time.monotonic()
        eventually(lambda: ready(service))
        history.wait_until_well()
    verdict = report(history.judge(f"two hosts, {order}; read-only for a while", database, ended=ended))
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT
