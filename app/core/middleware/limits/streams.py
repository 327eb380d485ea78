"""Streams: responses that are not sent at once, and WebSockets.

A response without `Content-Length` is a stream (`StreamingResponse`, server-sent events), and so is one in several
parts (`FileResponse` of more than 64 KiB). Its client decides how long it lives, so it counts towards a limit of its
own instead of the requests in flight, and not as latency.

An application that streams until it is told to stop asks for `app.core.api.shutdown.Shutdown`. Server-sent events that
do not stop by themselves are ended here: they have no last event, and clients reconnect (HTML Living Standard,
section 9.2.3). Other streams would be incomplete; they have `SHUTDOWN_TIMEOUT` to finish.
"""

from starlette.types import Message, Receive, Scope, Send

from app.core.error_responses import WITHOUT_BODY
from app.core.lifecycle import lifecycle
from app.core.observability.instruments import HTTP_SHED, HTTP_STREAMS

STREAM = "app.stream"
"""Key in the scope of a request whose response is a stream."""

_DISCONNECT: Message = {"type": "http.disconnect"}
_LAST: Message = {"type": "http.response.body", "body": b"", "more_body": False}
_shed = HTTP_SHED.labels("streams")


class StreamLimit:
    """Limits the streams and WebSockets that are open in this process.

    Parameters
    ----------
    limit
        How many may be open at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0

    def take(self, kind: str) -> bool:
        """Count a stream and return True, or count it as shed and return False if the limit is reached."""
        if self.open >= self.limit:
            _shed.inc()
            return False
        self.open += 1
        HTTP_STREAMS.labels(kind).inc()
        return True

    def release(self, kind: str) -> None:
        """Count a stream that has closed."""
        self.open -= 1
        HTTP_STREAMS.labels(kind).dec()


def is_stream(start: Message) -> bool:
    """Return whether a response that starts with this message is a stream, in however many parts."""
    for name, _ in start["headers"]:
        if name == b"content-length":
            return False
    return start["status"] not in WITHOUT_BODY


def is_whole(start: Message, body: bytes) -> bool:
    """Return whether this is all of the body of a response that starts with this message."""
    return all(int(value) <= len(body) for name, value in start["headers"] if name == b"content-length")


def is_event_stream(start: Message) -> bool:
    """Return whether a response consists of server-sent events."""
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"])


class Stream:
    """An open stream.

    Parameters
    ----------
    scope, receive, send
        Of the request.
    limit
        Where `take` has counted the stream.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: StreamLimit) -> None:
        self._receive, self._send, self._limit = receive, send, limit
        self._complete = self._events = False
        scope[STREAM] = True

    async def start(self, start: Message) -> None:
        """Send the head."""
        self._events = is_event_stream(start)
        await self._send(start)

    @property
    def _closing(self) -> bool:
        return self._events and lifecycle.closing_streams

    async def send(self, message: Message) -> None:
        """Send a part of the body."""
        self._complete = not message.get("more_body", False)
        await self._send(message)

    async def receive(self) -> Message:
        """Receive a message; server-sent events that have to end are told that the client has disconnected."""
        if self._closing:
            return _DISCONNECT
        message = await self._receive()  # the server lets it return when the streams are to end
        return _DISCONNECT if self._closing else message

    async def close(self) -> None:
        """Count the end of the stream, once the app has returned; send the last chunk if the app was told to end."""
        self._limit.release("response")
        if self._closing and not self._complete:
            await self._send(_LAST)
