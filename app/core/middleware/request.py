"""Give every request its trace id, its access line and its metrics.

A request passes `RequestMiddleware` first and last, so that every response, whatever made it, has the trace id and is
counted once. `BaseHTTPMiddleware` would lose context variables and cost a task per request.
"""

import asyncio
from time import perf_counter

from anyio import BrokenResourceError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.error_responses import response_for
from app.core.lifecycle import REJECTED, lifecycle
from app.core.middleware.limits.streams import STREAM
from app.core.middleware.route_table import RouteTable
from app.core.middleware.websocket import WebSocketExchange
from app.core.observability.access_log import caller_details, record_request
from app.core.observability.instruments import HTTP_IN_PROGRESS
from app.core.observability.trace_id import set_trace_id, trace_id_of

REACHED_APP = "app.reached"
"""Key in the scope of a request that passed all middleware: an error response is then the application's own."""

# Status in the access line and the metrics of a response that was cut off, whatever its head said. 499 is nginx's.
_CUT_STATUS = {"client": 499, "error": 500, "shutdown": 503}
_RANGE_STATUSES = (400, 416)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, send: Send, routes: RouteTable, *, log_caller: bool = False) -> None:
        self._log_caller = log_caller
        self.started = perf_counter()
        self.trace_id = trace_id_of(scope["headers"])
        self.method: str = scope["method"]
        # GET answers HEAD, unless a route does. The server's own scope is unchanged: because of it the body is omitted.
        self._server_scope = scope
        as_get = self.method == "HEAD" and not routes.answers_head(scope["path"])
        self.scope = {**scope, "method": "GET"} if as_get else scope
        self.status: int | None = None
        self.finished = False
        self._replacement: bytes | None = None
        self._send = send
        self._routes = routes

    async def send(self, message: Message) -> None:
        """Pass a message of the response on; before the last one is sent, the request is counted.

        So a client that has a response finds it in the metrics.
        """
        if message["type"] == "http.response.start":
            head = self._start(message)
            if self.method != "HEAD":
                await self._send(head)
                return
            # The head is all that the client waits for. The body would be dropped; the end makes a stream stop.
            self.record()
            if REJECTED in self.scope:
                self._server_scope[REJECTED] = True
            await self._send(head)
            await self._send({"type": "http.response.body", "body": b""})
            return
        if self.finished:
            return
        last = not message.get("more_body", False)
        if self._replacement is not None:
            if not last:
                return
            message = {"type": "http.response.body", "body": self._replacement}
        if last:
            self.record()
        await self._send(message)

    def _start(self, message: Message) -> Message:
        self.status = message["status"]
        if self.status < 400:
            message["headers"] = [*message["headers"], (b"x-trace-id", self.trace_id.encode())]
            return message
        headers = MutableHeaders(scope=message)
        if not self._is_apps_own and not headers.get("content-type", "").startswith("application/"):
            message, headers = self._enveloped(headers)
        headers["X-Trace-ID"] = self.trace_id
        return message

    @property
    def _is_apps_own(self) -> bool:
        """Whether the application has written this error, and not a middleware, or `FileResponse` for a range."""
        by_range = self.status in _RANGE_STATUSES and any(name == b"range" for name, _ in self.scope["headers"])
        return REACHED_APP in self.scope and not by_range

    def _enveloped(self, headers: MutableHeaders) -> tuple[Message, MutableHeaders]:
        """Replace the plain text of a library (CORS, trusted hosts, files) by the body that every error has."""
        assert self.status is not None  # noqa: S101 - set by the caller
        kept = {k: v for k, v in headers.items() if k not in {"content-type", "content-length"}}
        response = response_for(self.scope, HTTPException(self.status, headers=kept))
        self._replacement = bytes(response.body)
        message: Message = {
            "type": "http.response.start",
            "status": self.status,
            "headers": response.raw_headers,
        }
        return message, MutableHeaders(scope=message)

    def record(self, cut: str | None = None) -> None:
        """Count and log the request, once; `cut` says what ended the response before it was complete."""
        if self.finished:
            return
        self.finished = True
        status = _CUT_STATUS[cut] if cut is not None else self.status
        record_request(
            self.scope,
            self.method,
            self._routes.template(self.scope),
            499 if status is None else status,
            perf_counter() - self.started,
            stream=STREAM in self.scope,
            details=self._details(cut),
        )

    def _details(self, cut: str | None) -> dict[str, str | int]:
        details: dict[str, str | int] = {} if cut is None else {"cut": cut}
        return details | caller_details(self.scope) if self._log_caller else details


async def _discard(_: Message) -> None:
    """Send nothing: the server has sent the response itself."""


def record_rejection(scope: Scope, routes: RouteTable, status: int) -> str:
    """Count and log a request that the server answers itself, and return its trace id."""
    exchange = _Exchange(scope, _discard, routes)
    set_trace_id(exchange.trace_id)
    exchange.status = status
    exchange.record()
    return exchange.trace_id


def _is_of_left_stream(error: Exception) -> bool:
    """Return whether the client of server-sent events left: FastAPI closes the stream that its own task writes to."""
    return isinstance(error, ExceptionGroup) and error.split(BrokenResourceError)[1] is None


class RequestMiddleware:
    """Gives a request its trace id, its access line and its metrics."""

    def __init__(self, app: ASGIApp, routes: RouteTable, *, log_caller: bool = False) -> None:
        self.app = app
        self.routes = routes
        self.log_caller = log_caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "websocket":
            await WebSocketExchange(scope, receive, send, self.routes, log_caller=self.log_caller).run(self.app)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self.routes, log_caller=self.log_caller)
        set_trace_id(exchange.trace_id)
        HTTP_IN_PROGRESS.inc()
        cut = "client"
        try:
            await self.app(exchange.scope, receive, exchange.send)
        except asyncio.CancelledError:
            # The server cancels a request if its client has disconnected, or if the process has to exit before its end.
            pass
        except Exception as error:
            if not _is_of_left_stream(error):
                cut = "error"
                raise
        finally:
            HTTP_IN_PROGRESS.dec()
            if not exchange.finished:
                exchange.record("shutdown" if lifecycle.closing_streams and cut != "error" else cut)
