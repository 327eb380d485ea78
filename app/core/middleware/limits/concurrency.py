"""Limit the requests in flight: what cannot be answered in time is rejected at once.

A request counts from when it was received completely until its response is made, so that clients which send or read
slowly do not use up the limit. Streams and WebSockets have a limit of their own. Probes and scrapes always pass.
"""

from contextvars import copy_context

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.config import PROBE_PATHS
from app.core.error_responses import render_error, response_for
from app.core.errors import Overloaded
from app.core.lifecycle import EARLY_RETRY, REJECT, REJECTED, Rejection, lifecycle
from app.core.middleware.limits.streams import Stream, StreamLimit, is_stream, is_whole
from app.core.middleware.request import record_rejection
from app.core.middleware.route_table import RouteTable
from app.core.observability.instruments import HTTP_SHED

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# Bytes. One request in so many is left to those that have no larger body, and need not wait for the database.
_SMALL_BODY, _RESERVED_PART = 4096, 8
# Of a request that came through a proxy.
_FORWARDED = frozenset({b"forwarded", b"via", b"x-forwarded-for"})
_shed = HTTP_SHED.labels("in_flight")


class ConcurrencyLimitMiddleware:
    """Rejects requests while `limit` are in flight in this process, and early retries while half of `limit` are.

    Clients that retry at once would otherwise displace those that wait as `Retry-After` says.

    Parameters
    ----------
    app
        The application.
    limit, streams
        How many requests may be in flight, and how many streams and WebSockets open.
    routes
        The templates of the paths, for the metrics.
    """

    def __init__(self, app: ASGIApp, limit: int, streams: int, routes: RouteTable) -> None:
        self.app = app
        self.limit = limit
        self.streams = StreamLimit(streams)
        self.routes = routes
        self.in_flight = 0

    def reject(self, scope: Scope) -> Rejection | None:
        """Reject a plain request before it costs a task and all middleware; the server calls this."""
        if self.has_capacity(scope) or scope["path"] in PROBE_PATHS or scope["method"] in _WITH_BODY:
            return None
        if any(name == b"origin" or (name == b"accept" and b"problem" in value) for name, value in scope["headers"]):
            return None
        _shed.inc()
        # In a copy of the context: the trace id must not stay in the one that later requests run in.
        return copy_context().run(self._reject, scope)

    def _reject(self, scope: Scope) -> Rejection:
        trace_id = record_rejection(scope, self.routes, Overloaded.status)
        fields, body = _rejection(scope)
        return [*fields, (b"x-trace-id", trace_id.encode())], body

    def has_capacity(self, scope: Scope, size: int = 0) -> bool:
        """Return whether a request with a body of `size` bytes may start now."""
        if size > _SMALL_BODY and lifecycle.crowded:
            return False
        return self.in_flight < (self.limit // 2 if EARLY_RETRY in scope else self.limit)

    def count(self, change: int) -> None:
        """Count requests that begin or end."""
        self.in_flight += change
        lifecycle.crowded = self.in_flight >= self.limit - self.limit // _RESERVED_PART

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan" and "state" in scope:
            scope["state"][REJECT] = self.reject
        if scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        if not self.has_capacity(scope):
            await _send_rejection(scope, send)
            return
        slot = _Slot(self, scope, receive, send)
        try:
            if scope["method"] not in _WITH_BODY:
                slot.take()
            await self.app(scope, slot.receive, slot.send)
        finally:
            slot.release()
            if slot.stream is not None:
                await slot.stream.close()

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.streams.take("websocket"):
            await response_for(scope, Overloaded())(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.streams.release("websocket")


class _Slot:
    """One of the requests that may be in flight."""

    __slots__ = (
        "_head",
        "_limiter",
        "_receive",
        "_rejected",
        "_scope",
        "_send",
        "_size",
        "_taken",
        "_waiting",
        "stream",
    )

    def __init__(self, limiter: ConcurrencyLimitMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._limiter, self._scope, self._receive, self._send = limiter, scope, receive, send
        self._taken = self._rejected = False
        self._waiting = True  # for the end of the body
        self._size = 0  # of the body, as far as it was received
        self._head: Message | None = None
        self.stream: Stream | None = None

    def take(self) -> None:
        self._taken, self._waiting = True, False
        self._limiter.count(1)

    def release(self) -> None:
        if self._taken:
            self._taken = False
            self._limiter.count(-1)

    async def receive(self) -> Message:
        """Receive a message, and take the slot with the end of the body, unless the limit was reached meanwhile."""
        message = await (self._receive if self.stream is None else self.stream.receive)()
        self._size += len(message.get("body", b""))
        if self._waiting and not message.get("more_body", False):
            if not self._limiter.has_capacity(self._scope, self._size):
                _note_rejection(self._scope)
                fields = _retry_after(self._scope)
                raise Overloaded(headers={name.decode().title(): value.decode() for name, value in fields})
            self.take()
        return message

    async def send(self, message: Message) -> None:
        """Send a message, and release the slot with the last one, however slowly the client reads.

        A response in several parts, such as a file, is a stream: its client decides how long it takes. Starlette's
        `BaseHTTPMiddleware` sends one part, and then an empty one.
        """
        if self.stream is not None:
            await self.stream.send(message)
        elif self._rejected:
            pass
        elif message["type"] == "http.response.start":
            if is_stream(message):
                await self._start_stream(message)
            else:
                self._head = message  # until it is known whether one part follows
        elif self._head is not None:
            head, self._head = self._head, None
            if message.get("more_body", False) and not is_whole(head, message["body"]):
                await self._start_stream(head)
                await self.send(message)
                return
            self.release()
            await self._send(head)
            await self._send(message)
        else:
            await self._send(message)

    async def _start_stream(self, message: Message) -> None:
        self.release()
        if self._limiter.streams.take("response"):
            self.stream = Stream(self._scope, self._receive, self._send, self._limiter.streams)
            await self.stream.start(message)
        else:
            # The server then tells the app that the client has disconnected, so that it stops streaming.
            self._rejected = True
            await response_for(self._scope, Overloaded())(self._scope, self._receive, self._send)


def _note_rejection(scope: Scope) -> None:
    scope[REJECTED] = True
    _shed.inc()


async def _send_rejection(scope: Scope, send: Send) -> None:
    """Reject within the middleware, where CORS headers and a problem document are possible."""
    _note_rejection(scope)
    headers, body = _rejection(scope)
    await send({"type": "http.response.start", "status": Overloaded.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _retry_after(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Tell the client when to come back; close a connection of a proxy, which it may use for other clients next."""
    fields = [(b"retry-after", b"%d" % lifecycle.retry_after)]
    if any(name in _FORWARDED for name, _ in scope["headers"]):
        fields.append((b"connection", b"close"))
    return fields


def _rejection(scope: Scope) -> Rejection:
    media_type, body = render_error(scope, Overloaded.status, Overloaded.code, Overloaded.default_message)
    fields = [
        (b"vary", b"Accept"),
        (b"content-type", media_type.encode()),
        *_retry_after(scope),
        (b"content-length", b"%d" % len(body)),
    ]
    return fields, body
