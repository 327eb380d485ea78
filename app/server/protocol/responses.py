"""Responses as bytes: those that the server itself sends, and the app's head joined with its body."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.core.error_responses import error_response
from app.core.observability.trace_id import set_trace_id, trace_id_of

if TYPE_CHECKING:
    from app.server.protocol.http import ServiceProtocol

# Parts of a response that are in memory while one is not read: the next one waits for it, and is being made. FastAPI
# has four queues and tasks between a function that yields server-sent events and the connection.
_AHEAD, _EVENTS_AHEAD = 3, 8
_EVENTS = b"\r\ncontent-type: text/event-stream"

Fields = Sequence[tuple[bytes, bytes]]


class JoinedHead:
    """The transport of one response: holds its head back until its body begins, as ASGI's specification says.

    uvicorn writes the two apart, which costs a second system call and often a second packet. The head of a stream is
    sent at once: its first chunk may come late.
    """

    __slots__ = ("_ahead", "_connection", "_cycle", "_head", "_transport", "close", "is_closing")

    def __init__(self, cycle: RequestResponseCycle, connection: "ServiceProtocol") -> None:
        self._cycle, self._connection, self._transport = cycle, connection, cycle.transport
        self._head: bytes | None = None
        self._ahead = _AHEAD
        self.close, self.is_closing = connection.close_after_response, self._transport.is_closing

    def write(self, data: bytes) -> None:
        """Write `data`, or keep it if it is the head."""
        if self._head is None and self._cycle.response_started:  # else it is `100 Continue`
            if not self._cycle.chunked_encoding:
                self._head = data
                return
            self._head = b""
            self._connection.start_stream()
            if _EVENTS in data:
                self._ahead = _EVENTS_AHEAD
        elif self._head:
            data, self._head = self._head + data, b""
        is_last = not (self._cycle.chunked_encoding or self._cycle.expected_content_length)
        self._connection.written = len(data) * (1 if is_last else self._ahead)
        self._transport.write(data)


def render(status: int, fields: Fields, body: bytes, method: str | None) -> bytes:
    """Return a whole response; without its body if `method` is HEAD."""
    head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    return STATUS_LINE[status] + head + b"\r\n" + (b"" if method == "HEAD" else body)


def render_error(scope: Scope, default_fields: Fields, status: int, code: str, message: str) -> bytes:
    """Return an error response that closes the connection; set the trace id of the context to the request's."""
    trace_id = trace_id_of(scope["headers"])
    set_trace_id(trace_id)
    headers = {"X-Trace-ID": trace_id, "Connection": "close"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    response = error_response(scope, status, code, message, headers=headers)
    fields = dict([*default_fields, *response.raw_headers])
    return render(status, list(fields.items()), bytes(response.body), scope.get("method"))


def count_rejected(status: int) -> None:
    """Count a request that never reaches the app, which would have counted it."""
    # Imported late: the master, which imports this module, must not import the metrics (see `gunicorn_conf`).
    from app.core.observability.instruments import HTTP_REQUESTS  # noqa: PLC0415

    HTTP_REQUESTS.labels("_OTHER", "unmatched", str(status)).inc()
