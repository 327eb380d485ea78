"""What happens to the service's clients while the nodes of a cluster lose their sessions."""

import time

from tests.faults.conftest import Report, StartService, report, start  # noqa: F401 - two of them are fixtures
from tests.faults.history import History
from tests.support.cluster import query

# On the workers they are the coordinator's, on the coordinator those of the service.
_END_ON_WORKERS = (
    "SELECT success FROM run_command_on_workers($$ SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database() $$)"
)
_END_ON_COORDINATOR = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'items-service'"


def test_nodes_whose_sessions_end_lose_no_acknowledged_write(
    database_url: str,
    start: StartService,  # noqa: F811 - the fixture
    report: Report,  # noqa: F811 - the fixture
) -> None:
    service = start(database_url)
    with History(service.url).going_on() as history:
        for _ in range(6):
            time.sleep(0.3)
            assert all(success for (success,) in query(database_url, _END_ON_WORKERS))
            time.sleep(0.3)
            assert query(database_url, _END_ON_COORDINATOR)
        ended = time.monotonic()
        time.sleep(1)
    # A shared create is committed in two phases. A worker whose session ended in between has the rows of an
    # acknowledged write prepared, and shows them when Citus has recovered them (`citus.recover_2pc_interval`, 60 s).
    query(database_url, "SELECT recover_prepared_transactions()")
    history.stale.clear()

    verdict = report(history.judge("6 x every session of every node terminated", database_url, ended=ended))

    assert set(history.failures()) <= {"503 DATABASE_ERROR", "503 OVERLOADED", "404 THING_NOT_FOUND"}
    assert verdict.recovered is not None
    assert verdict.recovered < 5
