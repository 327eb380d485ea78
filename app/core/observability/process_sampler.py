"""Sample the process once a second, so that no request pays for it."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path

from anyio.to_thread import current_default_thread_limiter

from app.core.lifecycle import lifecycle
from app.core.observability.instruments import (
    DB_UP,
    EVENT_LOOP_LAG,
    LOG_RECORDS_DROPPED,
    PROCESS_CPU,
    PROCESS_FDS,
    PROCESS_MEMORY,
    SERVICE_READY,
    THREADS_BUSY,
    WORKER_STARTS,
    WORKERS,
)
from app.core.observability.log_writer import log_writer

_PERIOD = 1.0
"""Seconds between two samples."""
_SAMPLES_PER_HEALTH_CHECK = 5
"""Every fifth sample checks the database, unless a readiness probe has just done so."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc/self")


@contextlib.asynccontextmanager
async def sample_process(is_database_up: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
    """Sample this process while the block runs.

    Parameters
    ----------
    is_database_up
        Return whether the database answers.
    """
    WORKER_STARTS.inc()
    WORKERS.set(1)
    task = asyncio.create_task(_sample(is_database_up))
    try:
        yield
    finally:
        WORKERS.set(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _sample(is_database_up: Callable[[], Awaitable[bool]]) -> None:
    limiter = current_default_thread_limiter()
    cpu, is_up, dropped = 0.0, False, 0
    for number in count():
        if number % _SAMPLES_PER_HEALTH_CHECK == 0:
            is_up = await is_database_up()
            DB_UP.set(is_up)
        SERVICE_READY.set(is_up and not lifecycle.draining)
        THREADS_BUSY.set(limiter.borrowed_tokens)
        PROCESS_CPU.inc(max(0.0, time.process_time() - cpu))
        cpu = time.process_time()
        LOG_RECORDS_DROPPED.inc(log_writer.dropped - dropped)
        dropped = log_writer.dropped
        _sample_kernel()
        due = time.monotonic() + _PERIOD
        await asyncio.sleep(_PERIOD)
        EVENT_LOOP_LAG.set(max(0.0, time.monotonic() - due))


def _sample_kernel() -> None:
    """Read /proc, which is in memory, so that this does not block the event loop."""
    with contextlib.suppress(OSError, ValueError):  # there is no /proc
        PROCESS_MEMORY.set(int((_PROC / "statm").read_text().split()[1]) * _PAGE)
        PROCESS_FDS.set(len(os.listdir(_PROC / "fd")))  # noqa: PTH208 - names are enough
