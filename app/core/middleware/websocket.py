"""Give every WebSocket its trace id, its access line and its metrics."""

import asyncio
import http.client
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.status import (
    WS_1005_NO_STATUS_RCVD,
    WS_1006_ABNORMAL_CLOSURE,
    WS_1008_POLICY_VIOLATION,
    WS_1011_INTERNAL_ERROR,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.core.error_responses import error_response, response_for
from app.core.errors import Forbidden, InternalError, InvalidInput, NotFound
from app.core.middleware.route_table import RouteTable
from app.core.observability.access_log import caller_details, record_request
from app.core.observability.trace_id import set_trace_id, trace_id_of


class WebSocketExchange:
    """One WebSocket, from its handshake to its end.

    Its access line comes at its end, with status 101 and the code with which it was closed (`close_code`). A handshake
    that is rejected gets an error body like any other request.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, routes: RouteTable, *, log_caller: bool = False
    ) -> None:
        self._started = perf_counter()
        self._trace_id = trace_id_of(scope["headers"])
        self._scope, self._receive, self._to_server, self._routes = scope, receive, send, routes
        self._status: int | None = None
        self._close_code: int | None = None
        self._replaced = False
        self._log_caller = log_caller

    async def run(self, app: ASGIApp) -> None:
        """Call the app."""
        set_trace_id(self._trace_id)
        try:
            await app(self._scope, self.receive, self.send)
        except (asyncio.CancelledError, WebSocketDisconnect):
            pass  # the server cancels an app that does not notice that its client has disconnected
        finally:
            self._record()

    async def receive(self) -> Message:
        """Receive a message, and note the code with which the client closes."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect" and self._close_code is None:
            self._close_code = message.get("code", WS_1005_NO_STATUS_RCVD)
        return message

    async def send(self, message: Message) -> None:
        """Send a message, with the trace id in the response to the handshake."""
        kind = message["type"]
        if kind == "websocket.accept":
            await self._send(self._with_trace_id(message))
            self._status = 101
        elif kind == "websocket.close" and self._status is None:
            # Nothing was accepted (ASGI specification, "Close - send event"): 403, or no such path.
            error = Forbidden("Forbidden") if self._scope.get("endpoint") else NotFound()
            await response_for(self._scope, error)(self._scope, self.receive, self.send)
        elif kind == "websocket.http.response.start":
            await self._start_response(message)
        elif kind == "websocket.close":
            self._close_code = message.get("code", 1000)
            await self._send(message)
        elif not self._replaced:
            await self._send(message)

    async def _send(self, message: Message) -> None:
        """Send a message; Starlette handles the server's exception only once the WebSocket is accepted."""
        try:
            await self._to_server(message)
        except OSError as error:
            if self._status == 101:
                raise
            raise WebSocketDisconnect(WS_1006_ABNORMAL_CLOSURE) from error

    def _with_trace_id(self, message: Message) -> Message:
        headers = [*message.get("headers", ()), (b"x-trace-id", self._trace_id.encode())]
        return {**message, "headers": headers}

    async def _start_response(self, message: Message) -> None:
        """Send the head of a response to a handshake that is rejected; a library's plain text becomes an error body."""
        if self._status == 101:
            # An exception handler has answered an error as it does for a request: here it ends the WebSocket.
            self._replaced = True
            await self.send(_close_for(message["status"]))
            return
        self._status = message["status"]
        headers = MutableHeaders(raw=list(message["headers"]))
        if headers.get("content-type", "").startswith("application/"):
            await self._send(self._with_trace_id(message))
            return
        error = InternalError if message["status"] >= 500 else InvalidInput
        response = error_response(self._scope, message["status"], error.code, error.default_message)
        self._replaced = True
        await response(self._scope, self._receive, self._send_replacement)

    async def _send_replacement(self, message: Message) -> None:
        if message["type"] == "websocket.http.response.start":
            message = self._with_trace_id(message)
        await self._send(message)

    def _record(self) -> None:
        details: dict[str, str | int] = {}
        if self._status == 101:
            details["close_code"] = self._close_code or WS_1006_ABNORMAL_CLOSURE
        if self._log_caller:
            details |= caller_details(self._scope)
        record_request(
            self._scope,
            "GET",
            self._routes.template(self._scope),
            self._status or 499,
            perf_counter() - self._started,
            stream=self._status == 101,
            details=details,
        )


def _close_for(status: int) -> Message:
    """Make the message that closes a WebSocket for an error with this status; its phrase is the reason."""
    code = WS_1011_INTERNAL_ERROR if status >= 500 else WS_1008_POLICY_VIOLATION
    return {"type": "websocket.close", "code": code, "reason": http.client.responses.get(status, "")}
