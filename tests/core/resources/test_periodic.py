"""A periodic job runs in one worker of all, whatever happens to that one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from app.core.database import Database, transaction
from app.core.observability.instruments import PERIODIC_JOBS
from app.core.resources import periodic
from app.core.resources.periodic import purge_idempotency_keys, run_in_period, running_every
from tests.conftest import SQL, MakeSettings

pytestmark = pytest.mark.anyio

DAY = 86_400.0


@pytest.fixture
async def databases(make_settings: MakeSettings) -> AsyncIterator[list[Database]]:
    """Stand for the workers of several replicas."""
    made = [Database(make_settings()) for _ in range(4)]
    yield made
    for database in made:
        database.dispose()


@transaction
def insert_item(connection: Connection) -> None:
    connection.execute(text("INSERT INTO things (name, price) SELECT 'Job', 1 FROM pg_sleep(0.05)"))


@transaction
def insert_item_and_die(connection: Connection) -> None:
    insert_item(connection)
    connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def test_one_of_all_workers_runs_it(databases: list[Database], sql: SQL) -> None:
    tries = [run_in_period(DAY, "job", insert_item, database) for database in databases * 4]
    ran = await asyncio.gather(*tries)

    assert sum(ran) == 1
    assert sql("SELECT count(*) FROM things") == [(1,)]
    assert not await run_in_period(DAY, "job", insert_item, databases[0])
    assert await run_in_period(DAY, "another job", insert_item, databases[0])


async def test_the_death_of_its_worker_leaves_it_to_another(databases: list[Database], sql: SQL) -> None:
    with pytest.raises(Exception, match="not available"):
        await run_in_period(DAY, "job", insert_item_and_die, databases[0])

    assert await run_in_period(DAY, "job", insert_item, databases[1])
    assert sql("SELECT count(*) FROM things") == [(1,)]


async def test_it_goes_on_after_a_failure_and_is_logged_and_counted(
    databases: list[Database], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    failures = [RuntimeError("first time")]
    original: Callable[..., Any] = periodic.run_in_period

    async def fail_once(*arguments: Any) -> bool:
        if failures:
            raise failures.pop()
        ran: bool = await original(*arguments)
        return ran

    monkeypatch.setattr(periodic, "run_in_period", fail_once)
    async with asyncio.timeout(60), running_every(0.2, insert_item, databases[0]):
        while not any(record.message == "periodic job" for record in caplog.records):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert (
        next(record.message for record in caplog.records if "periodic job" in record.message) == "periodic job failed"
    )
    counter = PERIODIC_JOBS.labels(f"{__name__}.insert_item", "ok")
    assert counter._value.get() >= 1


async def test_expired_keys_are_purged(databases: list[Database], sql: SQL) -> None:
    sql(
        "INSERT INTO idempotency_keys (key, fingerprint, rows, created_at) "
        "SELECT 'key-' || n, '', '[]', now() - n * interval '1 hour' FROM generate_series(1, 3000) AS n"
    )
    await purge_idempotency_keys(databases[0])

    # Beside the key of a period, which the job of another application may have inserted meanwhile.
    assert sql("SELECT count(*), max(key) FROM idempotency_keys WHERE starts_with(key, 'key-')") == [(23, "key-9")]
