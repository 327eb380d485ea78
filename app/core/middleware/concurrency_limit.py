"""Bounded work in flight: what cannot be done in time is refused at once.

A request counts from when it is here as a whole until its answer is made: who sends or reads slowly takes no
place from others. Probes and scrapes always pass.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.config import PROBE_PATHS
from app.core.errors import Overloaded, response_for, wants_problem_json
from app.core.lifecycle import EARLY, REFUSED, Refusal, lifecycle
from app.core.middleware.request import note_refusal
from app.core.middleware.route_table import RouteTable
from app.core.observability.instruments import HTTP_SHED
from app.core.observability.trace_id import get_trace_id

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_BODY = b'{"detail":{"code":"%s","message":"%s"},"trace_id":"%%s"}' % (
    Overloaded.code.encode(),
    Overloaded.default_message.encode(),
)
_HEADERS = [
    (b"vary", b"Accept"),
    (b"content-type", b"application/json"),
]
_shed = HTTP_SHED.labels("in_flight")


class ConcurrencyLimitMiddleware:
    """Refuses requests while `limit` are in flight in this process, and while half of that those who come too early.

    Whoever is refused and asks again at once would otherwise push aside who did as it was told, and be answered after
    the seconds that the server did not listen to it.
    """

    def __init__(self, app: ASGIApp, limit: int, routes: RouteTable) -> None:
        self.app = app
        self.limit = limit
        self.routes = routes
        self.in_flight = 0
        lifecycle.turn_away = self.turn_away

    def turn_away(self, scope: Scope) -> Refusal | None:
        """Refuse a plain request before it costs a task and the way through the middleware."""
        if self.has_room(scope) or scope["path"] in PROBE_PATHS or scope["method"] in _WITH_BODY:
            return None
        if any(name == b"origin" or (name == b"accept" and b"problem" in value) for name, value in scope["headers"]):
            return None
        _shed.inc()
        return _refusal(note_refusal(scope, self.routes, Overloaded.status))

    def has_room(self, scope: Scope) -> bool:
        """Tell whether a request may be let in now."""
        return self.in_flight < (self.limit // 2 if EARLY in scope else self.limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http" or scope["path"] in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        if not self.has_room(scope):
            await _refuse(scope, receive, send)
            return
        visit = _Visit(self, scope, receive, send)
        try:
            if scope["method"] in _WITH_BODY:
                await self.app(scope, visit.receive, visit.send)
            else:
                visit.enter()
                await self.app(scope, receive, visit.send)
        except asyncio.CancelledError:
            # The server's doing: the client has gone, or the time is up, and it has said what there is to say.
            pass
        finally:
            visit.leave()


class _Visit:
    """One request that was let in."""

    __slots__ = ("_gate", "_inside", "_receive", "_scope", "_send")

    def __init__(self, gate: ConcurrencyLimitMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate, self._scope, self._receive, self._send = gate, scope, receive, send
        self._inside = False

    def enter(self) -> None:
        self._inside = True
        self._gate.in_flight += 1

    def leave(self) -> None:
        if self._inside:
            self._inside = False
            self._gate.in_flight -= 1

    async def receive(self) -> Message:
        """Receive, and take a place when the body is complete; the house may have filled up meanwhile."""
        message = await self._receive()
        if not (self._inside or message.get("more_body", False)):
            if not self._gate.has_room(self._scope):
                _note_refusal(self._scope)
                raise Overloaded(headers=_retry_after())
            self.enter()
        return message

    async def send(self, message: Message) -> None:
        """Send, and give the place back with the last message: the client takes it when it likes."""
        if not message.get("more_body", False) and message["type"] == "http.response.body":
            self.leave()
        await self._send(message)


def _note_refusal(scope: Scope) -> None:
    scope[REFUSED] = True
    _shed.inc()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer within the middleware, for which a browser or a problem document may ask."""
    _note_refusal(scope)
    problem = any(name == b"accept" and b"problem" in value for name, value in scope["headers"])
    if problem and wants_problem_json(Headers(scope=scope)):
        await response_for(scope, Overloaded(headers=_retry_after()))(scope, receive, send)
        return
    headers, body = _refusal(get_trace_id() or "")
    await send({"type": "http.response.start", "status": Overloaded.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _retry_after() -> dict[str, str]:
    return {"Retry-After": str(lifecycle.retry_after)}


def _refusal(trace_id: str) -> Refusal:
    body = _BODY % trace_id.encode()
    fields = [
        *_HEADERS,
        (b"retry-after", b"%d" % lifecycle.retry_after),
        (b"content-length", b"%d" % len(body)),
        (b"x-trace-id", trace_id.encode()),
    ]
    return fields, body
