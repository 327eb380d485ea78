"""Pauses reading from connections on which requests were rejected.

A rejection costs less than serving, but clients that retry at once could use up all the time. So their connections are
not read until a later tick of the server, and then at most `_RESUMED_PER_TICK` of them, in order. What they send
meanwhile waits in the kernel, and counts as an early retry when it is read.
"""

from collections import deque
from typing import Protocol

from app.core.lifecycle import lifecycle

_RESUMED_PER_TICK, _TICKS_PER_SECOND = 50, 10
# Connections whose clients have left do not count, but closing one costs some 30 us.
_TAKEN_PER_TICK = 500


class Throttled(Protocol):
    """A connection that can be paused."""

    early_retry: bool

    def close_if_left(self) -> bool:
        """Close it if its client has left, which is not noticed otherwise; return whether it is closed."""
        ...

    def resume_reading(self) -> None:
        """Read again; what is read until the next tick is an early retry."""


_paused: deque[Throttled] = deque()
_resumed: list[Throttled] = []


def throttle(connection: Throttled) -> None:
    """Queue a connection that was just paused."""
    _paused.append(connection)


def resume_throttled() -> None:
    """Resume some of the paused connections; the server calls this ten times a second."""
    for connection in _resumed:
        connection.early_retry = False
    _resumed.clear()
    for _ in range(min(_TAKEN_PER_TICK, len(_paused))):
        connection = _paused.popleft()
        if connection.close_if_left():
            continue
        connection.resume_reading()
        _resumed.append(connection)
        if len(_resumed) == _RESUMED_PER_TICK:
            break
    lifecycle.retry_after = 1 + len(_paused) // (_RESUMED_PER_TICK * _TICKS_PER_SECOND)
