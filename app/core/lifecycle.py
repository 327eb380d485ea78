"""What the server and the app both know about the life of this process.

The server (`app/server`) writes it, the app reads it; `core` knows nothing of the server.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

REFUSED = "app.refused"
"""The app sets it in the scope of a request that it has no room for; the server then reads no more of that
connection for a moment."""

EARLY = "app.early"
"""The server sets it in the scope of a request that was sent in spite of a refusal, without the pause it asked for."""

Refusal = tuple[list[tuple[bytes, bytes]], bytes]
"""Header fields and body of a 503."""


class Lifecycle:
    """The state of one process.

    Attributes
    ----------
    draining
        True from the moment that the whole service is told to end. Readiness then answers 503, so
        that load balancers send no more; requests that come nevertheless are served. A worker that
        alone is replaced (reload, recycling) does not drain: the service stays ready.
    retry_after
        Seconds after which the server will read again from a connection that is refused now.
    turn_away
        Set by the app, asked by the server before it begins a request: the answer to an ASGI scope for which there is
        no room, counted and logged; or None, and then the app is to serve it.
    """

    def __init__(self) -> None:
        self.draining = False
        self.retry_after = 1
        self.turn_away: Callable[[MutableMapping[str, Any]], Refusal | None] = lambda _: None


lifecycle = Lifecycle()
