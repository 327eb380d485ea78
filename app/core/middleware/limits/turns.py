"""Turns of large bodies: parsed and validated, a body takes some fifteen times its size."""

import asyncio
from collections import deque

from app.core.errors import Overloaded

# Bytes. Smaller bodies need no turn: the server's budget for all bodies limits them.
LARGE = 64 * 1024
_WAIT_SECONDS = 5.0


class Turns:
    """Lets bodies of `limit` bytes together be processed at a time, in the order in which they are complete."""

    def __init__(self, limit: int) -> None:
        self._free = self._limit = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> int:
        """Wait for the turn of a body, and return what to give back after it.

        Raises
        ------
        Overloaded
            It did not come within `_WAIT_SECONDS`.
        """
        size = min(size, self._limit)
        if not self._waiting and self._free >= size:
            self._free -= size
            return size
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await asyncio.wait({turn}, timeout=_WAIT_SECONDS)
        except asyncio.CancelledError:
            self._leave(size, turn)
            raise
        if not turn.done():
            self._leave(size, turn)
            raise Overloaded
        return size

    def _leave(self, size: int, turn: asyncio.Future[None]) -> None:
        if turn.done():
            self.give(size)
        else:
            self._waiting.remove((size, turn))
            self.give(0)

    def give(self, size: int) -> None:
        """Give back what was taken, to those who wait."""
        self._free += size
        while self._waiting and self._free >= self._waiting[0][0]:
            size, turn = self._waiting.popleft()
            self._free -= size
            turn.set_result(None)
