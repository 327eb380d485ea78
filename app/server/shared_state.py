"""What the master and its workers tell each other: a few bytes of shared memory.

A signal says no more than its number: a worker that gets SIGTERM cannot know whether the whole
service ends (then readiness must turn) or it alone is replaced (then it must not).
"""

import math
import mmap

# Slots are small numbers (see `gunicorn_conf.pre_fork`): at most two for each of WEB_CONCURRENCY's
# 256 workers, while a reload replaces them.
_SLOTS = 1023

_RUNNING, _DRAIN, _END = range(3)
_EMPTY, _BOOTING, _ACCEPTING, _RETIRING, _LEAVING = range(5)


class SharedState:
    """A byte for the service, one for each slot, and a number for each. Made in the master before the first fork.

    Each has one writer at a time, and is written at once: no lock is needed.
    """

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, 1 + _SLOTS)
        self._connections = memoryview(mmap.mmap(-1, 4 * _SLOTS)).cast("I")

    @property
    def halting(self) -> bool:
        """Whether the whole service ends."""
        return self._bytes[0] != _RUNNING

    @property
    def drains(self) -> bool:
        """Whether it drains before it ends."""
        return self._bytes[0] == _DRAIN

    def halt(self, *, drain: bool) -> None:
        """Announce, in the master, that the whole service ends."""
        if not self.halting:
            self._bytes[0] = _DRAIN if drain else _END

    def booting(self, slot: int) -> None:
        """Note, in the master, that a worker is about to be forked."""
        self._bytes[1 + slot] = _BOOTING

    def accepting(self, slot: int) -> None:
        """Note, in the worker, that it accepts connections; it has none yet."""
        self._connections[slot] = 0
        self._bytes[1 + slot] = _ACCEPTING

    def retiring(self, slot: int) -> None:
        """Note, in the worker, that it will leave: others must not count on it."""
        self._bytes[1 + slot] = _RETIRING

    def leaving(self, slot: int) -> None:
        """Note, in the worker, that it accepts no more."""
        self._bytes[1 + slot] = _LEAVING

    def gone(self, slot: int) -> None:
        """Note, in the master, that the worker is dead."""
        self._bytes[1 + slot] = _EMPTY

    def anyone_accepting(self) -> bool:
        """Tell whether some worker accepts connections and means to stay."""
        return bytes((_ACCEPTING,)) in self._bytes[1:]

    def connected(self, slot: int, connections: int) -> None:
        """Note, in the worker, how many connections it has."""
        self._connections[slot] = connections

    def fewest_connections(self) -> float:
        """Find how many the least busy of those has that accept connections and mean to stay; infinity if none does."""
        states = self._bytes[1:].rstrip(bytes((_EMPTY,)))
        numbers = [self._connections[slot] for slot, state in enumerate(states) if state == _ACCEPTING]
        return min(numbers, default=math.inf)

    def successor_expected(self, slot: int) -> bool:
        """Tell whether somebody will soon accept connections, though this retiring worker stays.

        It is who boots already, or replaces a worker that leaves. Of several workers that retire at
        the same time, the one in the lowest slot leaves first.
        """
        booting_or_replacing = any(bytes((state,)) in self._bytes[1:] for state in (_BOOTING, _LEAVING))
        return booting_or_replacing or bytes((_RETIRING,)) in self._bytes[1 : 1 + slot]


shared_state = SharedState()
