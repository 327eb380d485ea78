"""What a worker says of itself once a second, so that no request pays for it."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

from anyio.to_thread import current_default_thread_limiter

from app.core.database import Probe
from app.core.lifecycle import lifecycle
from app.core.metrics import (
    DB_UP,
    EVENT_LOOP_LAG,
    PROCESS_CPU,
    PROCESS_FDS,
    PROCESS_MEMORY,
    SERVICE_READY,
    THREADS_BUSY,
    WORKER_STARTS,
    WORKERS,
)

_PERIOD = 1.0
"""Seconds between two looks."""
_LOOKS_A_QUESTION = 5
"""The database is asked at every fifth look, where no readiness probe has just done so."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc/self")


@contextlib.asynccontextmanager
async def watched(probe: Probe) -> AsyncIterator[None]:
    """Watch this process as long as the block runs.

    Parameters
    ----------
    probe
        Whether the database is there.
    """
    WORKER_STARTS.inc()
    WORKERS.set(1)
    task = asyncio.create_task(_watch(probe))
    try:
        yield
    finally:
        WORKERS.set(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch(probe: Probe) -> None:
    limiter = current_default_thread_limiter()
    cpu, answers = 0.0, False
    for look in count():
        if look % _LOOKS_A_QUESTION == 0:
            answers = await probe.answers()
            DB_UP.set(answers)
        SERVICE_READY.set(answers and not lifecycle.draining)
        THREADS_BUSY.set(limiter.borrowed_tokens)
        PROCESS_CPU.inc(max(0.0, time.process_time() - cpu))
        cpu = time.process_time()
        _look_at_process()
        due = time.monotonic() + _PERIOD
        await asyncio.sleep(_PERIOD)
        EVENT_LOOP_LAG.set(max(0.0, time.monotonic() - due))


def _look_at_process() -> None:
    """Read what the kernel says; these files are no disk's, so the event loop may."""
    with contextlib.suppress(OSError, ValueError):  # there is no /proc
        PROCESS_MEMORY.set(int((_PROC / "statm").read_text().split()[1]) * _PAGE)
        PROCESS_FDS.set(len(os.listdir(_PROC / "fd")))  # noqa: PTH208 - names are enough
