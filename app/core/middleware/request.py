"""Give every request its trace id, its access line and its place in the metrics.

A request passes `RequestMiddleware` first and last, so that every answer, whoever made it, has the trace id
and is counted once. `BaseHTTPMiddleware` would lose context variables and cost a task a request.
"""

import asyncio
import logging
from functools import lru_cache
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.config import PROBE_PATHS
from app.core.errors import InternalError, InvalidInput, error_response
from app.core.middleware.route_table import RouteTable
from app.core.observability.instruments import HTTP_DURATION, HTTP_IN_PROGRESS, HTTP_REQUESTS
from app.core.observability.trace_id import set_trace_id, trace_id_of

_access_log = logging.getLogger("app.access")

# Whatever else a client sends is counted as `_OTHER`, as in the OpenTelemetry conventions: series stay bounded.
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})

_requests = lru_cache(maxsize=4096)(HTTP_REQUESTS.labels)
_durations = lru_cache(maxsize=1024)(HTTP_DURATION.labels)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, routes: RouteTable, *, log_caller: bool = False) -> None:
        self._log_caller = log_caller
        self.started = perf_counter()
        self.trace_id = trace_id_of(scope["headers"])
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        # Routing knows GET only; the copy leaves the server's own scope, by which it omits the body, alone.
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self.status: int | None = None
        self.finished = False
        self._replacement: bytes | None = None
        self._send = send
        self._routes = routes

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on; before the last one leaves, the request is counted.

        So whoever has an answer in hand finds it in the metrics.
        """
        if message["type"] == "http.response.start":
            await self._send(self._start(message))
            return
        last = not message.get("more_body", False)
        if self._replacement is not None:
            if not last:
                return
            message = {"type": "http.response.body", "body": self._replacement}
        if self.method == "HEAD":
            message = {**message, "body": b""}
        if last:
            self.finish()
        await self._send(message)

    def _start(self, message: Message) -> Message:
        self.status = message["status"]
        if self.status < 400:
            message["headers"] = [*message["headers"], (b"x-trace-id", self.trace_id.encode())]
            return message
        headers = MutableHeaders(scope=message)
        if not headers.get("content-type", "").startswith("application/"):
            message, headers = self._enveloped(headers)
        headers["X-Trace-ID"] = self.trace_id
        return message

    def _enveloped(self, headers: MutableHeaders) -> tuple[Message, MutableHeaders]:
        """Put the plain-text error of a library (CORS, trusted hosts) into our envelope."""
        assert self.status is not None  # noqa: S101 - set by the caller
        error = InternalError if self.status >= 500 else InvalidInput
        kept = {k: v for k, v in headers.items() if k not in {"content-type", "content-length"}}
        response = error_response(self.scope, self.status, error.code, error.default_message, headers=kept)
        self._replacement = bytes(response.body)
        message: Message = {
            "type": "http.response.start",
            "status": self.status,
            "headers": response.raw_headers,
        }
        return message, MutableHeaders(scope=message)

    def finish(self) -> None:
        """Count and log the request, once."""
        if self.finished:
            return
        self.finished = True
        duration = perf_counter() - self.started
        method = self.method if self.method in _KNOWN_METHODS else "_OTHER"
        template = self._routes.template(self.scope)
        status = self.status if self.status is not None else 499
        _requests(method, template, str(status)).inc()
        _durations(method, template).observe(duration)
        level = logging.DEBUG if template in PROBE_PATHS else logging.INFO
        if _access_log.isEnabledFor(level):
            extra = {
                "method": self.method,
                "path": self.path,
                "status": status,
                "duration_ms": round(duration * 1000, 3),
                "client": self.client,
            }
            # Set by `app.core.api.authentication`.
            if self._log_caller and (caller := self.scope.get("state", {}).get("caller")) is not None:
                extra["caller"] = caller.subject
            _access_log.log(level, "%s %s %d", self.method, self.path, status, extra=extra)


async def _discard(_: Message) -> None:
    """Do not send what the server has sent already."""


def record_rejection(scope: Scope, routes: RouteTable, status: int) -> str:
    """Count and log a request that the server answers itself, and return its trace id."""
    exchange = _Exchange(scope, _discard, routes)
    set_trace_id(exchange.trace_id)
    exchange.status = status
    exchange.finish()
    return exchange.trace_id


class RequestMiddleware:
    """Gives a request its trace id, its access line and its place in the metrics."""

    def __init__(self, app: ASGIApp, routes: RouteTable, *, log_caller: bool = False) -> None:
        self.app = app
        self.routes = routes
        self.log_caller = log_caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self.routes, log_caller=self.log_caller)
        set_trace_id(exchange.trace_id)
        HTTP_IN_PROGRESS.inc()
        try:
            await self.app(exchange.scope, receive, exchange.send)
        except asyncio.CancelledError:
            # The server cancels a request whose client has gone, or for which it has sent a 503 at shutdown.
            pass
        finally:
            HTTP_IN_PROGRESS.dec()
            exchange.finish()
