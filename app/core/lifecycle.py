"""What the server tells the app about this process, and the keys by which both exchange facts about a request.

`app/core` does not import the server: `app/server` writes here what the app reads.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

REJECTED = "app.rejected"
"""Key that the app sets in the scope of a request that it rejects for lack of capacity. The server then pauses reading
from that connection."""

EARLY_RETRY = "app.early_retry"
"""Key that the server sets in the scope of a request that was sent before the pause after a rejection was over."""

ASKED_FOR_BODY = "app.asked_for_body"
"""Key in the scope of a request: whether the app has asked for its body. Until it has, the server may discard the body
and let the request go on, which may be done already."""

BODY_DISCARDED = "app.body_discarded"
"""Key that the server sets in the scope of a request whose body it has discarded."""

Rejection = tuple[list[tuple[bytes, bytes]], bytes]
"""Header fields and body of a 503."""

Reject = Callable[[MutableMapping[str, Any]], Rejection | None]
"""Return the 503 to an ASGI scope for which there is no capacity, counted and logged; or None, to call the app."""

REJECT = "app.reject"
"""Key of the app's `Reject` in the ASGI lifespan state. The server calls it before it starts a request."""


SHUTDOWN = "app.shutdown"
"""Key of an `asyncio.Event` in the ASGI lifespan state. The server sets it when this process stops accepting requests,
at a shutdown after the drain as at a reload: streams should end (see `app.core.api.shutdown`)."""


class Lifecycle:
    """The state of this process.

    Attributes
    ----------
    draining
        Whether the whole service is shutting down. Readiness then answers 503, so that load balancers send no more
        requests; those that come nevertheless are served. It stays False in a worker that alone is replaced (reload,
        `max_requests`): the service stays ready.
    closing_streams
        Whether open streams and WebSockets are being closed, as the process exits soon.
    crowded
        Whether so many requests are in flight that one which would have to wait for long is rejected.
    retry_after
        Seconds until the server reads again from a connection that is rejected now.
    """

    def __init__(self) -> None:
        self.draining = False
        self.closing_streams = False
        self.crowded = False
        self.retry_after = 1


lifecycle = Lifecycle()
