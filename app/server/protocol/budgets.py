"""Memory that all connections of a worker may hold together, in bytes.

A connection that exceeds a budget is not always the one that ends: it is the one that has held its part for longest,
since an ordinary client sends or reads what it has in a fraction of a second.
"""

from typing import TYPE_CHECKING

from app.core.config import load_settings

if TYPE_CHECKING:
    from app.server.protocol.closing import ClosingProtocol

# For the bodies that are received or processed; twice the largest body, if that is more.
_BODIES = 16 * 1024 * 1024
# For responses that clients have not read.
_RESPONSES = 64 * 1024 * 1024


class Budget:
    """Counts what connections hold.

    Parameters
    ----------
    limit
        Bytes, for all connections together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[ClosingProtocol, int] = {}  # in the order in which they began
        self._total = 0

    def hold(self, connection: "ClosingProtocol", size: int) -> bool:
        """Count `size` more bytes for a connection; return whether all of them are within the limit."""
        self._held[connection] = self._held.get(connection, 0) + size
        self._total += size
        return self._total <= self._limit

    def held(self, connection: "ClosingProtocol") -> int:
        """Return what a connection holds."""
        return self._held.get(connection, 0)

    def release(self, connection: "ClosingProtocol") -> None:
        """Forget what a connection held."""
        self._total -= self._held.pop(connection, 0)

    def holders(self) -> "list[ClosingProtocol]":
        """List the connections, the one that began first in front."""
        return list(self._held)


bodies = Budget(max(_BODIES, 2 * load_settings().max_body_bytes))
responses = Budget(_RESPONSES)
