"""A real failover, and a real pooler between."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults import patroni
from tests.faults.conftest import Report, StartService
from tests.faults.history import History
from tests.faults.patroni import TTL, Cluster
from tests.faults.postgresql import PostgreSQL
from tests.support.cluster import query
from tests.support.service import eventually

pytestmark = pytest.mark.slow

NO_CLUSTER = patroni.missing("patroni", "etcd")
NO_POOLER = patroni.missing("pgbouncer")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Run three nodes, one synchronous standby."""
    with patroni.cluster() as running:
        yield running


@pytest.mark.skipif(NO_CLUSTER != "", reason=NO_CLUSTER)
@pytest.mark.parametrize("how", ["killed (-9)", "cut off (SIGSTOP)"])
def test_a_failover(cluster: Cluster, start: StartService, report: Report, how: str) -> None:
    eventually(lambda: cluster.standbys() == 2, 90, pause=0.3)
    service = start(cluster.url)
    workers = service.workers()
    with History(service.url).going_on() as history:
        time.sleep(2)
        former = cluster.leader()
        assert former
        if how.startswith("killed"):
            former.kill()
        else:
            former.signal(signal.SIGSTOP)
        began = time.monotonic()
        leader_url, leads = cluster.new_leader(former)
        eventually(lambda: history.first_write_after(leads) is not None, 15)
        flows = history.first_write_after(leads)
        eventually(lambda: service.client.get("/health/ready").status_code == 200, 10)
        ready = time.monotonic() - leads
        time.sleep(2)
        if how.startswith("killed"):
            former.start()
        else:
            former.wake()  # and believes for a moment that it leads
        back = time.monotonic()
        eventually(lambda: former.state().get("role") in {"replica", "standby_leader"}, 90, pause=0.3)
        eventually(lambda: cluster.standbys() == 2, 90, pause=0.3)
        time.sleep(2)
    assert service.workers() == workers, "no restart"
    note = f"leader after {leads - began:.1f} s (ttl {TTL}), first write {flows:.2f} s later, ready {ready:.2f} s later"
    verdict = report(history.judge(f"Patroni failover: primary {how}", leader_url, ended=leads, note=note))
    assert flows is not None
    assert flows < 2
    goes_on = history.first_write_after(back)
    assert goes_on is not None
    assert goes_on < 1
    assert verdict.worst < 16


@pytest.mark.skipif(NO_POOLER != "", reason=NO_POOLER)
def test_pgbouncer_in_transaction_mode(
    postgresql: PostgreSQL, database: str, start: StartService, report: Report
) -> None:
    with patroni.pgbouncer(postgresql.url) as url:
        # PgBouncer refuses `options`, so that the bound of a statement must be the role's.
        service = start(url, DB_STATEMENT_TIMEOUT="0", DB_POOL_SIZE="16")
        with History(service.url, clients=24).going_on() as history:
            time.sleep(5)
            tag = service.client.post("/things", json={"name": "x", "price": 1}).headers
            patch = service.client.patch(tag["Location"], json={"price": 2}, headers={"If-Match": tag["ETag"]})
            assert patch.status_code == 200
            assert len(query(database, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")) <= 7
            postgresql.terminate_backends()
            ended = time.monotonic()
            time.sleep(2)
        verdict = report(
            history.judge(
                "PgBouncer (transaction mode), 32 connections over 5, then every session ended", database, ended=ended
            )
        )
    assert verdict.recovered is not None
    assert verdict.recovered < 1
