"""Memory that all connections of a worker may hold together, in bytes.

When a budget is exceeded, the connection that has held memory for longest is closed, which may be another one: an
ordinary client sends or reads what it has in a fraction of a second.
"""

from typing import Protocol

from app.core.config import load_settings
from app.core.errors import Overloaded

# For the bodies and messages that are received or processed; twice the largest body, if that is more.
_BODIES = 16 * 1024 * 1024
# For input after the requests that are being answered.
_QUEUES = 16 * 1024 * 1024
# For responses that clients have not read.
_RESPONSES = 64 * 1024 * 1024


class Holder(Protocol):
    """A connection.

    Attributes
    ----------
    body_since
        When the body or message that is being received began; None if there is none.
    """

    body_since: float | None

    def close_with_error(self, status: int, code: str, message: str) -> None:
        """Close it, with this response if that is possible."""

    def abort_response(self, reason: str) -> None:
        """Close it in the middle of what it sends."""


class Budget:
    """Counts what connections hold.

    Parameters
    ----------
    limit
        Bytes, for all connections together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Holder, int] = {}  # oldest first
        self._total = 0

    def hold(self, connection: Holder, size: int) -> bool:
        """Count `size` more bytes for a connection; return whether all of them are within the limit."""
        return self.set(connection, self._held.get(connection, 0) + size)

    def set(self, connection: Holder, size: int) -> bool:
        """Note that a connection holds `size` bytes; return whether all of them are within the limit."""
        self._total += size - self._held.get(connection, 0)
        self._held[connection] = size
        return self._total <= self._limit

    def held(self, connection: Holder) -> int:
        """Return what a connection holds."""
        return self._held.get(connection, 0)

    def release(self, connection: Holder) -> None:
        """Forget what a connection held."""
        self._total -= self._held.pop(connection, 0)

    def holders(self) -> list[Holder]:
        """List the connections, oldest first."""
        return list(self._held)


def reject_slowest(otherwise: Holder) -> None:
    """Close the connection with the oldest unfinished body, since all bodies together are too large."""
    slowest = next((holder for holder in bodies.holders() if holder.body_since is not None), otherwise)
    bodies.release(slowest)
    slowest.close_with_error(Overloaded.status, Overloaded.code, Overloaded.default_message)


def reject_oldest_queue() -> None:
    """Close the connection that has queued input for longest, since all queues together are too large."""
    oldest = queues.holders()[0]
    queues.release(oldest)
    oldest.close_with_error(Overloaded.status, Overloaded.code, Overloaded.default_message)


def abort_oldest() -> None:
    """Abort the oldest unread response, since all together are too large."""
    responses.holders()[0].abort_response("The responses that clients have not read take too much memory")


bodies = Budget(max(_BODIES, 2 * load_settings().max_body_bytes))
queues = Budget(_QUEUES)
responses = Budget(_RESPONSES)
