"""Run a store function every so often, in exactly one worker of all replicas.

Every worker wakes up in each period and tries. The transaction of the first one holds an advisory lock, so the others
do not wait for it, and inserts a key with the number of the period, so none runs it again. If its worker dies, the
transaction is rolled back with the key, and the next worker that wakes up runs it.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Connection, text

from app.core.database import Database, transaction
from app.core.database.database import Mode
from app.core.database.idempotency import delete_expired, insert_key
from app.core.database.once import Once
from app.core.database.unit_of_work import UnitOfWork
from app.core.observability.instruments import PERIODIC_JOBS
from app.core.observability.trace_id import new_trace_id, set_trace_id

_log = logging.getLogger(__name__)

_MAX_PERIOD = 24 * 3600.0
"""Seconds for which a key is kept."""
_PURGE_PERIOD = 60.0
_PURGE_SECONDS = 2.0
"""Seconds after which a purge leaves the rest to the next one: a unit of work may last little longer than the statement
timeout."""
_LOCK = text(
    "SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0)) AS taken, "
    "floor(extract(epoch FROM now()) / :period)::bigint AS number"
)


@contextlib.asynccontextmanager
async def running_every(seconds: float, job: UnitOfWork[[], Any], database: Database) -> AsyncIterator[None]:
    """Run a `@transaction` without parameters once in each period, while this context lasts.

    Parameters
    ----------
    seconds
        The period, at most a day.
    job
        Must end within the statement timeout, so it does large work in parts.
    database
        Where it runs.
    """
    if not 0 < seconds <= _MAX_PERIOD:
        raise ValueError("a period is at most 24 hours")
    task = asyncio.get_running_loop().create_task(_run_forever(seconds, job, database))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _run_forever(seconds: float, job: UnitOfWork[[], Any], database: Database) -> None:
    name = f"{job.__module__}.{job.__name__}"  # type: ignore[attr-defined]  # of the function that it wraps
    counters = {outcome: PERIODIC_JOBS.labels(name, outcome) for outcome in ("ok", "error")}
    while True:
        # Not all workers at the same time, and each of them in every period.
        await asyncio.sleep(seconds * random.uniform(0.25, 0.75))  # noqa: S311
        set_trace_id(new_trace_id())
        started = time.perf_counter()
        try:
            ran = await run_in_period(seconds, name, job, database)
        except Exception:  # noqa: BLE001 - the next period tries again
            counters["error"].inc()
            _log.exception("periodic job failed", extra={"job": name})
            continue
        if ran:
            counters["ok"].inc()
            duration = round((time.perf_counter() - started) * 1000, 3)
            _log.info("periodic job", extra={"job": name, "duration_ms": duration})


async def run_in_period(seconds: float, name: str, job: UnitOfWork[[], Any], database: Database) -> bool:
    """Run a job unless it has run in the current period, or is running; return whether it ran."""

    def unit(connection: Connection) -> bool:
        lock = connection.execute(_LOCK, {"name": name, "period": seconds}).one()
        # A key of a client has no space in it.
        once = Once("", f"{name} {lock.number}", "periodic job", on_replay=lambda: None)
        if not lock.taken or not insert_key(connection, once, b""):
            return False
        job(connection)
        return True

    return await database.run(Mode.TRANSACTION, unit)


@transaction
def purge_idempotency_keys(connection: Connection) -> None:
    """Delete the idempotency keys that have expired."""
    until = time.monotonic() + _PURGE_SECONDS
    while delete_expired(connection) and time.monotonic() < until:
        pass


def purging(database: Database) -> contextlib.AbstractAsyncContextManager[None]:
    """Purge idempotency keys every minute, while this context lasts."""
    return running_every(_PURGE_PERIOD, purge_idempotency_keys, database)
