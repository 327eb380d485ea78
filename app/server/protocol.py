"""HTTP/1.1 on one connection: uvicorn's httptools protocol, made strict and bounded.

There is no timer a connection: the server's `sweep`, once a second, compares a few time stamps, so a
request pays for no timer to be set and cancelled. Neither gunicorn nor uvicorn bounds any of this.
"""

import asyncio
import contextvars
import logging
import re
from collections import deque
from http import HTTPStatus
from typing import cast

import httptools
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.core.errors import error_response
from app.core.lifecycle import EARLY, REFUSED, lifecycle
from app.core.observability.trace_id import set_trace_id, trace_id_of

# The head of a request, all fields and the target; nginx and Node allow 32 and 16 KB.
MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 100
# Seconds from the first byte of a head to its last; nginx and Apache have 60 and 20.
HEAD_SECONDS = 10.0
# A body may take so long, and a second more for each so many bytes (Apache's mod_reqtimeout: 20 s, 500).
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 500
# A client that takes nothing of its answer for so long is gone.
WRITE_SECONDS = 30.0
# After a refusal we still read and forget for so long: closing with unread input resets the
# connection, and the client would not see the answer (RFC 9112, section 9.6).
LINGER_SECONDS = 2.0
# RFC 3986's host and port, loosely; what matters is that there is no space, comma, slash or control.
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]*")

# To refuse costs a part of what it costs to serve, so those who come again at once would in the end leave no time
# for anything else. Their connections are not read until the server's next look, ten a second, and then at most so
# many of them, in turn; what they send meanwhile waits in the kernel, and is early when it is read.
_READ_AGAIN, _LOOKS_A_SECOND = 50, 10
_sent_away: deque["ServiceProtocol"] = deque()
_heard_again: list["ServiceProtocol"] = []

logger = logging.getLogger(__name__)


def read_on() -> None:
    """Listen again to connections on which requests were refused; called ten times a second."""
    for connection in _heard_again:
        connection.early = False
    _heard_again.clear()
    for _ in range(min(_READ_AGAIN, len(_sent_away))):
        connection = _sent_away.popleft()
        connection.listen_again()
        _heard_again.append(connection)
    lifecycle.retry_after = 1 + len(_sent_away) // (_READ_AGAIN * _LOOKS_A_SECOND)


def _count_refused(status: int) -> None:
    # Imported late: the master, which imports this module, must not import the metrics (see `gunicorn_conf`).
    from app.core.observability.instruments import HTTP_REQUESTS  # noqa: PLC0415

    HTTP_REQUESTS.labels("_OTHER", "unmatched", str(status)).inc()


class RefusedError(Exception):
    """The head of a request breaks a rule that the parser does not know."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _HeadWithBody:
    """The transport of one answer: its head waits for the first of its body, as ASGI's specification has it.

    uvicorn writes the two apart, which costs a system call, and often a packet, more.
    """

    __slots__ = ("_cycle", "_head", "_transport", "close", "is_closing")

    def __init__(self, connection: "ServiceProtocol", cycle: RequestResponseCycle) -> None:
        self._cycle, self._transport = cycle, cycle.transport
        self._head: bytes | None = None
        self.close, self.is_closing = connection.close_answered, self._transport.is_closing

    def write(self, data: bytes) -> None:
        """Write, or keep the head."""
        if self._head is None and self._cycle.response_started:  # else it is `100 Continue`
            self._head = data
        elif self._head:
            self._transport.write(self._head + data)
            self._head = b""
        else:
            self._transport.write(data)


class ServiceProtocol(HttpToolsProtocol):
    """One connection. Times are those of the event loop's clock, in seconds.

    Attributes
    ----------
    early
        Whether what comes now was sent before we listened again, after a refusal.
    """

    early = False

    _now = 0.0  # when input last came
    _free_at = 0.0  # since when the connection waits for a request: made, or last answer complete
    _head_at: float | None = None  # when the head that is being read began
    _body_at: float | None = None  # when the body that is being read began
    _bytes = 0  # of the head or body that is being read, without the chunk it began in
    _stuck_at = 0.0  # since when the client does not read
    _deaf = False  # whatever comes now is not a request any more
    _lingering = False
    _upgrade = False
    _running: tuple[RequestResponseCycle, asyncio.Task[None]] | None = None  # the last request that was begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._free_at = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what waits to be done for a client that has gone."""
        super().connection_lost(exc)
        if self._running is None:
            return
        cycle, task = self._running
        if not cycle.response_complete:
            cycle.disconnected = True  # uvicorn tells the newest one, which may be queued behind this
            self.loop.call_soon(task.cancel)  # after its first step, so that it is counted and logged

    def data_received(self, data: bytes) -> None:
        """Parse what came; on anything that is not HTTP, answer and close."""
        if self._deaf:
            return
        self._now = self.loop.time()
        self._bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(error.__context__)
        except httptools.HttpParserUpgrade as upgrade:
            self._restart_without_upgrade(data[upgrade.args[0] :])
        else:
            self._check_partial()

    def _check_partial(self) -> None:
        """Refuse a head, or the trailers of a body, that has no end in sight."""
        too_large = self._head_at is not None and self._bytes > MAX_HEAD_BYTES
        if too_large or (self.headers is not None and len(self.headers) > MAX_FIELDS):
            self._refuse(RefusedError(431, "The header fields are too large or too many"))

    def _restart_without_upgrade(self, rest: bytes) -> None:
        """Parse a request again as if `Upgrade` were not there (RFC 9110, section 7.8).

        httptools takes what follows the head for another protocol. It is a body: Java's HTTP client,
        for one, offers `h2c` with every POST.
        """
        drop = (b"upgrade", b"connection", b"http2-settings")
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers if name not in drop]
        self.parser = httptools.HttpRequestParser(self)
        self._upgrade = False
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self) -> None:
        """Note when the head began."""
        super().on_message_begin()
        self._head_at, self._bytes = self._now, 0

    def on_headers_complete(self) -> None:
        """Check the head, and start the request."""
        self._check_head()
        self._upgrade = self.parser.should_upgrade()
        if self._upgrade:  # begins again, see `_restart_without_upgrade`
            return
        super().on_headers_complete()
        self._head_at, self._body_at, self._bytes = None, self._now, 0

    def on_message_complete(self) -> None:
        """Note that the whole request is here."""
        self._body_at = None
        if not self._upgrade:
            super().on_message_complete()

    def _check_head(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.headers) > MAX_FIELDS or size > MAX_HEAD_BYTES:
            raise RefusedError(431, "The header fields are too large or too many")
        if self.parser.get_method() == b"CONNECT":
            raise RefusedError(400, "This is not a proxy")
        # RFC 9112, section 3.2: proxies and we must not differ on which host is meant.
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            raise RefusedError(400, "There must be exactly one Host header field")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise RefusedError(400, "Malformed Host header field")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin what has just come, or refuse it; uvicorn calls this at the end of a head."""
        if self.early:
            cycle.scope[EARLY] = True  # type: ignore[literal-required]
        # In a copy of the context: the trace id must not stay in the one that later requests run in.
        refusal = contextvars.copy_context().run(lifecycle.turn_away, cast("Scope", cycle.scope))
        if refusal is None:
            self._begin(cycle, app)
        else:
            self._turn_away(cycle, *refusal)

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["method"] != "HEAD":  # which has no body to wait for
            cycle.transport = cast("asyncio.Transport", _HeadWithBody(self, cycle))
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._running = cycle, task

    def _turn_away(self, cycle: RequestResponseCycle, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer in place of the app, in one write."""
        fields = [*self.server_state.default_headers, *fields]
        told = (b"connection", b"close") in fields
        if not cycle.keep_alive and not told:
            fields.append((b"connection", b"close"))
        cycle.response_started = cycle.response_complete = True
        self.server_state.total_requests += 1
        self._free_at = self.loop.time()
        head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        body = b"" if cycle.scope["method"] == "HEAD" else body
        self.transport.write(STATUS_LINE[HTTPStatus.SERVICE_UNAVAILABLE] + head + b"\r\n" + body)
        if told or not cycle.keep_alive:
            self.transport.close()
        else:
            self._send_away()

    def on_response_complete(self) -> None:
        """Go on with the next request; as uvicorn's, without its keep-alive timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._free_at = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            self._begin(*self.pipeline.pop())
        elif self._running is not None and REFUSED in self._running[0].scope and not self._running[0].more_body:
            self._send_away()

    def _send_away(self) -> None:
        """Read no more for a moment: whoever was refused is not to come back at once."""
        if not self.flow.read_paused:
            self.flow.pause_reading()
            _sent_away.append(self)

    def listen_again(self) -> None:
        """Read on, after a refusal."""
        self.early = True
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        self._stuck_at = self.loop.time()
        super().pause_writing()

    @property
    def _free(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.disconnected

    @property
    def _quiet(self) -> bool:
        """Whether no request is being answered, and none is on its way."""
        return self._free and self._head_at is None and self._body_at is None

    def sweep(self, now: float) -> None:
        """Close the connection if the client is too slow; called once a second."""
        if self.flow.write_paused and now - self._stuck_at > WRITE_SECONDS:
            self.transport.abort()
        elif self._head_at is not None:
            if not self._free:  # pipelined behind a request that we have not answered
                self._head_at = now
            elif now - self._head_at > HEAD_SECONDS:
                self.cut(408, "INVALID_INPUT", "The request did not come in time")
        elif self._body_at is not None:
            self._sweep_body(now)
        elif self._quiet:
            bound = LINGER_SECONDS if self._lingering else self.timeout_keep_alive
            self.close_if_quiet(now - bound)

    def _sweep_body(self, now: float) -> None:
        assert self._body_at is not None  # noqa: S101 - the caller's condition
        if self._free:
            # Answered early (413, 404, ...): the rest is read and forgotten, so that a client that
            # sends first and reads then sees the answer.
            if now - self._free_at > LINGER_SECONDS:
                self.transport.abort()
        elif self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._body_at, self._bytes = now, 0  # it is we who do not read
        elif now - self._body_at > BODY_SECONDS + self._bytes / BODY_BYTES_PER_SECOND:
            self.cut(408, "INVALID_INPUT", "The request did not come in time")

    def close_if_quiet(self, since: float) -> None:
        """Close the connection if it has waited for a request since before `since`."""
        if not self._quiet or self._free_at > since:
            return
        if self.transport.is_closing() or self._lingering:
            self.transport.abort()  # there is no other way if the client takes nothing
        else:
            self.transport.close()

    def close_answered(self) -> None:
        """Close after an answer; who still sends is read for a while, or a reset would overtake it."""
        if self._body_at is None:
            self.transport.close()
            return
        self._deaf = self._lingering = True
        self._body_at, self._free_at = None, self.loop.time()
        self.transport.write_eof()

    def say_close(self) -> None:
        """Make the answer that has not begun the connection's last."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def end_late(self) -> None:
        """End the connection as the process leaves: whoever waits for an answer gets a 503."""
        if self._quiet:
            self.transport.close()
        else:
            self.cut(503, "OVERLOADED", "The service is shutting down")

    def _end_after_answer(self) -> None:
        self._deaf = True
        self._head_at = self._body_at = None
        self.cycle.keep_alive = False
        if self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, reason: BaseException | None) -> None:
        """Answer input that is not a request. An earlier request on the connection is answered first."""
        if not self._free and self._body_at is None:
            self._end_after_answer()
        elif isinstance(reason, RefusedError):
            self.cut(reason.status, "INVALID_INPUT", reason.message)
        else:
            self.cut(400, "INVALID_INPUT", "Malformed HTTP request")

    def cut(self, status: int, code: str, message: str) -> None:
        """End the connection with this answer, if it is not too late for one."""
        answering = not self._free and (self.cycle.response_started or len(self.pipeline) > 0)
        answered = self._free and self._body_at is not None
        if self.transport.is_closing() or answering or answered:
            self.transport.abort()
            return
        scope: Scope = {"type": "http", "headers": [], "path": ""}
        if not self._free:
            scope = dict(self.cycle.scope)
            self.cycle.disconnected = True  # whatever the app sends from now on is dropped
            self.cycle.message_event.set()
        self._deaf = self._lingering = True
        self._head_at, self._body_at, self._free_at = None, None, self.loop.time()
        # In a copy of the context: the trace id must not stay in the one that later requests run in.
        contextvars.copy_context().run(self._answer, scope, status, code, message)

    def _answer(self, scope: Scope, status: int, code: str, message: str) -> None:
        trace_id = trace_id_of(scope["headers"])
        set_trace_id(trace_id)
        headers = {"X-Trace-ID": trace_id, "Connection": "close"}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = "1"
        response = error_response(scope, status, code, message, headers=headers)
        fields = [*self.server_state.default_headers, *response.raw_headers]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in dict(fields).items())
        body = b"" if scope.get("method") == "HEAD" else bytes(response.body)
        if self._free:  # it never reached the app, which would have counted it
            _count_refused(status)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self.transport.write_eof()
        extra = {"status": status, "client": self.client[0] if self.client else None}
        logger.info("%s", message, extra=extra)
