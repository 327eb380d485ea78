"""Locks between processes, which the operating system releases when the holder ends."""

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
    """Open a lock file, and create it if necessary; child processes do not inherit the descriptor."""
    return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)


def take(lock: int, kind: int) -> bool:
    """Take an open lock, or change its kind; return whether that was possible."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_taken(file: Path) -> bool:
    """Return whether a process holds the lock exclusively."""
    lock = open_lock(file)
    try:
        return not take(lock, SHARED)
    finally:
        os.close(lock)


@contextmanager
def locked(file: Path, timeout: float) -> Iterator[None]:
    """Hold a lock during a block; raise `TimeoutError` if it is not free within `timeout` seconds."""
    lock = open_lock(file)
    try:
        wait_until(lambda: take(lock, EXCLUSIVE), timeout, f"{file} is not free")
        yield
    finally:
        os.close(lock)


def wait_until(true: Callable[[], bool], timeout: float, complaint: str) -> None:
    """Wait for a condition; raise `TimeoutError` with the complaint after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} after {timeout:.0f} s")
        time.sleep(POLL)
