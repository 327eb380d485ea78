"""Memory that all connections of a worker may hold together, in bytes.

When a budget is exceeded, the connection that has held memory for longest is closed, or the one whose client reads
most slowly. It may be another one: an ordinary client sends or reads what it has in a fraction of a second.
"""

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from app.core.config import load_settings
from app.core.errors import Overloaded

# For the bodies and messages that are received or processed; twice the largest body, if that is more.
_BODIES = 16 * 1024 * 1024
# For heads that are being received, and for input after the requests that are being answered.
_QUEUES = 16 * 1024 * 1024
# For responses that clients have not read.
_RESPONSES = 64 * 1024 * 1024
# What a connection counts besides: it has objects as well, and few need to be closed for the next one.
_EACH = 4 * 1024


class Holder(Protocol):
    """A connection."""

    @property
    def rejectable(self) -> bool:
        """Whether its body or message is unfinished, or it streams: an ordinary client is soon done with both."""

    def reject_body(self, status: int, code: str, message: str) -> None:
        """Reject its body or message, or end its stream."""

    def abort_response(self, reason: str) -> None:
        """Close it in the middle of what it sends."""

    def bytes_per_second(self) -> float:
        """Return how fast its client reads."""


class Queue(Protocol):
    """A connection with input that waits."""

    def reject_queue(self) -> None:
        """Reject that input."""


H = TypeVar("H")


class Budget(Generic[H]):
    """Counts what connections hold.

    Parameters
    ----------
    limit
        Bytes, for all connections together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[H, int] = {}  # oldest first
        self._total = 0

    @property
    def exceeded(self) -> bool:
        """Whether all connections together hold more than the limit."""
        return self._total > self._limit

    def hold(self, connection: H, size: int) -> None:
        """Count `size` more bytes for a connection."""
        self._set(connection, self._held.get(connection, _EACH) + size)

    def set(self, connection: H, size: int) -> None:
        """Note that a connection holds `size` bytes."""
        self._set(connection, _EACH + size)

    def _set(self, connection: H, size: int) -> None:
        self._total += size - self._held.get(connection, 0)
        self._held[connection] = size

    def release(self, connection: H) -> None:
        """Forget what a connection held."""
        self._total -= self._held.pop(connection, 0)

    def holders(self) -> list[H]:
        """List the connections, oldest first."""
        return list(self._held)

    def size(self, connection: H) -> int:
        """Return what is counted for a connection."""
        return self._held.get(connection, 0)

    def close(self, connections: Iterable[H], close: Callable[[H], object]) -> None:
        """Close connections, in this order, until the others are within the limit."""
        for connection in connections:
            if not self.exceeded:
                return
            if connection in self._held:
                self.release(connection)
                close(connection)


def reject_slowest(otherwise: Holder) -> None:
    """If all bodies together are too large, reject the oldest that may be rejected."""
    if bodies.exceeded:
        bodies.close([*filter(lambda holder: holder.rejectable, bodies.holders()), otherwise], _reject_body)


def reject_oldest_queues() -> None:
    """If all queues together are too large, reject what has been queued for longest."""
    if queues.exceeded:
        queues.close(queues.holders(), lambda connection: connection.reject_queue())


def hold_response(connection: Holder, size: int) -> None:
    """Count a response that the client does not read; if all together are too large, abort the slowest clients'."""
    responses.set(connection, size)
    if responses.exceeded:
        responses.close(sorted(responses.holders(), key=lambda holder: holder.bytes_per_second()), _abort)


def _reject_body(connection: Holder) -> None:
    connection.reject_body(Overloaded.status, Overloaded.code, Overloaded.default_message)


def _abort(connection: Holder) -> None:
    connection.abort_response("The responses that clients have not read take too much memory")


bodies: Budget[Holder] = Budget(max(_BODIES, 2 * load_settings().max_body_bytes))
queues: Budget[Queue] = Budget(_QUEUES)
responses: Budget[Holder] = Budget(_RESPONSES)
