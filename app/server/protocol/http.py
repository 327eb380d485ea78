"""HTTP/1.1 on one connection."""

import asyncio
import contextlib
import contextvars
import fcntl
import logging
import termios
from array import array
from typing import cast

import httptools
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.core.errors import Overloaded
from app.core.lifecycle import EARLY_RETRY, REJECT, REJECTED, Reject, Rejection
from app.server.protocol.budgets import bodies, responses
from app.server.protocol.closing import ClosingProtocol
from app.server.protocol.head import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    BadRequestError,
    HeadTooLargeError,
    check_head,
    is_canonical,
    use_target_host,
    without_upgrade,
)
from app.server.protocol.responses import JoinedHead, render
from app.server.protocol.throttle import throttle
from app.server.protocol.timeouts import check_timeouts

# Bytes that are parsed at a time: so many can be queued requests, whose objects are a hundred times as large.
_PIECE = 8192
# Bytes of chunk sizes and extensions for each byte of data: one-byte chunks have five.
_CHUNK_OVERHEAD = 8

logger = logging.getLogger(__name__)


class PipelineFlow(FlowControl):
    """Flow control that does not read while requests are queued, although the app asks for the rest of a body."""

    def __init__(self, transport: asyncio.Transport, connection: "ServiceProtocol") -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read, unless requests are queued."""
        if not self._connection.has_queue:
            super().resume_reading()


class ServiceProtocol(ClosingProtocol):
    """One connection. Times are those of the event loop's clock, in seconds.

    Attributes
    ----------
    early_retry
        Whether input that comes now was sent during the pause after a rejection.
    received_bytes
        Bytes of that head or body, without the chunk in which it began.
    write_paused_since
        Since when the client does not read.
    unread
        Bytes of its response that the client had not read then.
    """

    early_retry = False
    received_bytes = 0
    write_paused_since = 0.0
    unread = 0

    _received_at = 0.0
    _unparsed = b""  # what came behind pipelined requests, and is parsed after them
    _body_bytes = 0
    _upgrade_offered = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the idle time."""
        super().connection_made(transport)
        self.flow = PipelineFlow(transport, self)
        self.idle_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request whose client has gone."""
        super().connection_lost(exc)
        self._unparsed = b""
        bodies.release(self)
        responses.release(self)
        if self._current is None:
            return
        cycle, task = self._current
        if not cycle.response_complete:
            cycle.disconnected = True  # uvicorn tells the newest one, which may be queued behind this
            self.loop.call_soon(task.cancel)  # after its first step, so that it is counted and logged

    def data_received(self, data: bytes) -> None:
        """Parse input; if it is not HTTP, answer with an error and close."""
        if self._input_ended:
            return
        self._received_at = self.loop.time()
        self._unparsed += data
        self._parse()

    @property
    def has_queue(self) -> bool:
        """Whether requests wait for the one that is being answered: then no more is read or parsed."""
        return bool(self.pipeline or self._unparsed)

    def _parse(self) -> None:
        """Parse input in pieces, so that few requests can be queued at once."""
        data, self._unparsed = self._unparsed, b""
        start, again = 0, b""
        while (again or start < len(data)) and not (self._input_ended or self.pipeline):
            piece, again = again or data[start : (start := start + _PIECE)], b""
            self.received_bytes += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserError as error:
                self._reject_input(error.__context__)
            except httptools.HttpParserUpgrade as upgrade:
                rest = piece[upgrade.args[0] :]
                if self._should_upgrade() and not self.responding:
                    self._upgrade_to_websocket(rest + data[start:])
                    return
                again = self._restart_without_upgrade() + rest
            else:
                self._check_partial()
        if not self._input_ended:
            self._unparsed = again + data[start:]
        if self.has_queue:
            self.flow.pause_reading()

    def _check_partial(self) -> None:
        """Reject a head, or what is around the data of a body, that is too large before it is complete."""
        too_large = self.head_since is not None and self.received_bytes > MAX_HEAD_BYTES
        if self.body_since is not None:  # chunk sizes, extensions and trailers
            too_large = self.received_bytes > _PIECE + MAX_HEAD_BYTES + _CHUNK_OVERHEAD * self._body_bytes
        if too_large or (self.headers is not None and len(self.headers) > MAX_FIELDS):
            self._reject_input(HeadTooLargeError())

    def _upgrade_to_websocket(self, rest: bytes) -> None:
        """Hand the connection over; uvicorn would lose what came with the head."""
        self.handle_websocket_upgrade()
        if rest:
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(rest)

    def _restart_without_upgrade(self) -> bytes:
        """Return a request's head as if it had not offered to upgrade (RFC 9110, section 7.8), to be parsed again.

        httptools takes what follows the head for another protocol, but it is a body: Java's HTTP client, for one,
        offers `h2c` with every POST.
        """
        head = without_upgrade(self.parser.get_method(), self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self._upgrade_offered = False
        return head

    def on_message_begin(self) -> None:
        """Start the time of the head."""
        super().on_message_begin()
        self.head_since, self.received_bytes = self._received_at, 0

    def on_headers_complete(self) -> None:
        """Check the head, and start the request."""
        check_head(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self._upgrade_offered = self.parser.should_upgrade()
        if self._upgrade_offered:  # `data_received` goes on
            if self._should_upgrade():
                super().on_headers_complete()  # which only notes the method
            return
        use_target_host(self.url, self.headers)
        super().on_headers_complete()
        # The request has its own list now; what follows are trailers, which are never header fields (RFC 9110, 6.5.1).
        self.headers = []
        self.head_since, self.body_since, self.received_bytes, self._body_bytes = None, self._received_at, 0, 0

    def on_body(self, body: bytes) -> None:
        """Count the body; if all bodies together are too large, reject the one that has been under way for longest."""
        super().on_body(body)
        self._body_bytes += len(body)
        if not self.cycle.response_complete and not bodies.hold(self, len(body)):
            slowest = next((other for other in bodies.holders() if other.body_since is not None), self)
            bodies.release(slowest)
            slowest.close_with_error(Overloaded.status, Overloaded.code, Overloaded.default_message)

    def on_message_complete(self) -> None:
        """End the time of the body."""
        self.body_since = None
        if not self._upgrade_offered:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request, or reject it; uvicorn calls this at the end of a head."""
        if not is_canonical(cycle.scope["raw_path"]):
            cycle.scope["path"] = cycle.scope["raw_path"].decode("ascii")  # which no route has
        if self.early_retry:
            cycle.scope[EARLY_RETRY] = True  # type: ignore[literal-required]
        reject: Reject | None = self.app_state.get(REJECT)
        # In a copy of the context: the trace id must not stay in the one that later requests run in.
        rejection = reject and contextvars.copy_context().run(reject, cast("Scope", cycle.scope))
        if rejection is None:
            self._run(cycle, app)
        else:
            self._reject(cycle, rejection)

    def _run(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["method"] != "HEAD":  # which has no body to wait for
            cycle.transport = cast("asyncio.Transport", JoinedHead(self, cycle))
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._current = cycle, task

    def _reject(self, cycle: RequestResponseCycle, rejection: Rejection) -> None:
        """Send a 503 in place of the app's response."""
        fields = [*self.server_state.default_headers, *rejection[0]]
        close = (b"connection", b"close") in fields
        if not cycle.keep_alive and not close:
            fields.append((b"connection", b"close"))
        cycle.response_started = cycle.response_complete = True
        self.server_state.total_requests += 1
        self.idle_since = self.loop.time()
        self.transport.write(render(503, fields, rejection[1], cycle.scope["method"]))
        if close or not cycle.keep_alive:
            self.transport.close()
        else:
            self._throttle()

    def on_response_complete(self) -> None:
        """Start the next request; like uvicorn's, without its keep-alive timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.idle_since = self.loop.time()
        bodies.release(self)
        if self.pipeline:
            self._run(*self.pipeline.pop())
        if self._unparsed:
            self.loop.call_soon(self._parse_queued, context=contextvars.Context())
        self.flow.resume_reading()
        if self.responding:
            return
        if self._current is not None and REJECTED in self._current[0].scope and not self._current[0].more_body:
            self._throttle()

    def _parse_queued(self) -> None:
        self._parse()
        self.flow.resume_reading()

    def _throttle(self) -> None:
        """Pause reading after a rejection."""
        if not self.flow.read_paused:
            self.flow.pause_reading()
            throttle(self)

    def resume_reading(self) -> None:
        """Read again after a rejection."""
        self.early_retry = True
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        self.write_paused_since, self.unread = self.loop.time(), self.count_unread()
        super().pause_writing()
        if not responses.hold(self, self.transport.get_write_buffer_size()):
            responses.holders()[0].abort_response("The responses that clients have not read take too much memory")

    def resume_writing(self) -> None:
        """Note that the client has read its response, or nearly."""
        responses.release(self)
        super().resume_writing()

    def count_unread(self) -> int:
        """Count the bytes that the client has not acknowledged, here and in the kernel."""
        queued = array("i", [0])
        with contextlib.suppress(OSError, AttributeError):  # closed
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return self.transport.get_write_buffer_size() + queued[0]

    def abort_response(self, reason: str) -> None:
        """Close the connection in the middle of a response, which the access line calls complete."""
        logger.warning("%s", reason, extra={"client": self.client[0] if self.client else None})
        responses.release(self)
        self.transport.abort()

    def check_timeouts(self, now: float) -> None:
        """Close the connection if its client is too slow; called once a second."""
        check_timeouts(self, now)

    def _reject_input(self, reason: BaseException | None) -> None:
        """Answer input that is not a request. An earlier request on the connection is answered first."""
        if self.responding and self.body_since is None:
            self._close_after_current()
        elif isinstance(reason, BadRequestError):
            self.close_with_error(reason.status, "INVALID_INPUT", reason.message)
        else:
            self.close_with_error(400, "INVALID_INPUT", "Malformed HTTP request")
