"""Input that is parsed in turn, so that the event loop goes on, however many connections send much."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

# Of one iteration of the event loop, for all connections together; and how many turns: after one a connection may read
# 256 KiB in the next iteration.
_SECONDS, _TURNS = 0.002, 16


class Parsing(Protocol):
    """A connection with input that is not parsed.

    Attributes
    ----------
    turns
        How many it has taken; a little input takes a part of one. The queue raises it to what others have taken.
    """

    turns: float

    def parse_piece(self) -> None:
        """Parse some of it, and ask for another turn if more is left."""


class ParseQueue:
    """Connections that wait for their turn; one that had little to parse comes before those that had much.

    This is start-time fair queueing (Goyal, Vin and Cheng, 1996), except that who was idle is a turn ahead.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Parsing]] = []  # a heap
        self._numbers = count()
        self._turns = 0.0  # how many each of those that always wait has taken
        self._scheduled = False
        self._until: float | None = None  # of the present iteration, once it is asked for

    def add(self, connection: Parsing) -> None:
        """Give a connection, which does not wait already, its turn in a later iteration."""
        connection.turns = max(connection.turns, self._turns - 1)
        heappush(self._waiting, (connection.turns, next(self._numbers), connection))
        self._schedule()

    def has_time(self) -> bool:
        """Return whether the present iteration of the event loop has time for more input."""
        if self._until is None:
            self._until = time.perf_counter() + _SECONDS
            _call_soon(self._end_iteration)
        return time.perf_counter() < self._until

    def _end_iteration(self) -> None:
        self._until = None

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            _call_soon(self._run)

    def _run(self) -> None:
        try:
            for _ in range(min(len(self._waiting), _TURNS)):
                if not self.has_time():
                    break
                turns, _, connection = heappop(self._waiting)
                self._turns = max(self._turns, turns)
                connection.parse_piece()
        finally:
            self._scheduled = False
            self._schedule()


def _call_soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback, context=contextvars.Context())


parse_queue = ParseQueue()
