"""The state that the master and its workers share: a few bytes of memory.

A signal carries no more than its number: a worker that gets SIGTERM cannot know whether the whole service shuts down
(readiness must become 503) or it alone is replaced (readiness must stay 200).
"""

import math
import mmap

# Slots are small numbers (see `gunicorn_conf.pre_fork`): at most two for each of WEB_CONCURRENCY's
# 256 workers, while a reload replaces them.
_SLOTS = 1023

_RUNNING, _DRAIN, _SHUT_DOWN = range(3)
_EMPTY, _BOOTING, _ACCEPTING, _RETIRING, _LEAVING = range(5)


class SharedState:
    """A byte for the service, and a byte and a number for each slot. Created in the master before the first fork.

    Each has one writer at a time, and is written in a single operation, so no lock is needed.
    """

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, 1 + _SLOTS)
        self._connections = memoryview(mmap.mmap(-1, 4 * _SLOTS)).cast("I")

    @property
    def shutting_down(self) -> bool:
        """Whether the whole service shuts down."""
        return self._bytes[0] != _RUNNING

    @property
    def drains(self) -> bool:
        """Whether the service drains before it shuts down."""
        return self._bytes[0] == _DRAIN

    def shut_down(self, *, drain: bool) -> None:
        """Announce, in the master, that the whole service shuts down."""
        if not self.shutting_down:
            self._bytes[0] = _DRAIN if drain else _SHUT_DOWN

    def booting(self, slot: int) -> None:
        """Note, in the master, that a worker is about to be forked."""
        self._bytes[1 + slot] = _BOOTING

    def accepting(self, slot: int) -> None:
        """Note, in the worker, that it accepts connections. It has none yet."""
        self._connections[slot] = 0
        self._bytes[1 + slot] = _ACCEPTING

    def retiring(self, slot: int) -> None:
        """Note, in the worker, that it will exit: others must not rely on it."""
        self._bytes[1 + slot] = _RETIRING

    def leaving(self, slot: int) -> None:
        """Note, in the worker, that it accepts no more connections."""
        self._bytes[1 + slot] = _LEAVING

    def gone(self, slot: int) -> None:
        """Note, in the master, that the worker has exited."""
        self._bytes[1 + slot] = _EMPTY

    def any_accepting(self) -> bool:
        """Return whether a worker that is not retiring accepts connections."""
        return bytes((_ACCEPTING,)) in self._bytes[1:]

    def connected(self, slot: int, connections: int) -> None:
        """Note, in the worker, how many connections it has."""
        self._connections[slot] = connections

    def fewest_connections(self) -> float:
        """Return the lowest number of connections of a worker that accepts; infinity if none does."""
        states = self._bytes[1:].rstrip(bytes((_EMPTY,)))
        numbers = [self._connections[slot] for slot, state in enumerate(states) if state == _ACCEPTING]
        return min(numbers, default=math.inf)

    def successor_expected(self, slot: int) -> bool:
        """Return whether another worker will soon accept connections, before this retiring one has exited.

        That is a worker that boots, or will replace one that is leaving. Of several workers that retire at the same
        time, the one in the lowest slot leaves first.
        """
        booting_or_leaving = any(bytes((state,)) in self._bytes[1:] for state in (_BOOTING, _LEAVING))
        return booting_or_leaving or bytes((_RETIRING,)) in self._bytes[1 : 1 + slot]


shared_state = SharedState()
