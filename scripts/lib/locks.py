"""Locks between processes, which the system frees when their holder dies, however it dies."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED = fcntl.LOCK_SH
EXCLUSIVE = fcntl.LOCK_EX
FREE = fcntl.LOCK_UN
POLL = 0.05  # seconds


def open_lock(file: Path) -> int:
    """Open a lock file, made if it is not there; no child inherits the descriptor."""
    return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)


def take(lock: int, kind: int) -> bool:
    """Take an open lock, or turn it into another kind, unless somebody else's stands against it."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_taken(file: Path) -> bool:
    """Tell whether somebody holds a lock exclusively."""
    lock = open_lock(file)
    try:
        return not take(lock, SHARED)
    finally:
        os.close(lock)


@contextmanager
def locked(file: Path, timeout: float) -> Iterator[None]:
    """Hold a lock for a block; `TimeoutError` when it is not free in time, in seconds."""
    lock = open_lock(file)
    try:
        wait_until(lambda: take(lock, EXCLUSIVE), timeout, f"{file} is not free")
        yield
    finally:
        os.close(lock)


def wait_until(true: Callable[[], bool], timeout: float, complaint: str) -> None:
    """Wait for a condition; `TimeoutError` with the complaint when it takes too long."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} after {timeout:.0f} s")
        time.sleep(POLL)
