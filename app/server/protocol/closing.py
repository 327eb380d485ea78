"""How a connection ends: idle, after a response, with an error, or because the process exits."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Coroutine
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.core.errors import Overloaded, ShuttingDown
from app.core.lifecycle import ASKED_FOR_BODY, BODY_DISCARDED
from app.server.protocol.budgets import bodies, queues, responses
from app.server.protocol.responses import count_rejected, render_error
from app.server.protocol.timeouts import bytes_per_second

logger = logging.getLogger(__name__)


def _coroutine(task: asyncio.Task[None]) -> Coroutine[Any, Any, None]:
    return cast("Coroutine[Any, Any, None]", task.get_coro())


class ClosingProtocol(HttpToolsProtocol):
    """The part of a connection that knows its state, and closes it. Times are the event loop's, in seconds.

    Attributes
    ----------
    idle_since
        When the connection was made, its last response was complete, or its client was last seen to read.
    head_since, body_since
        When the head or body that is being received began; None if there is none.
    write_paused_since
        Since when the client does not read all of a response at once.
    unread
        Bytes that it had not read then.
    lingering
        Whether the last response was sent, and input is only read to be discarded.
    """

    idle_since = 0.0
    head_since: float | None = None
    body_since: float | None = None
    write_paused_since = 0.0
    unread = 0
    lingering = False

    _input_ended = False  # further input is discarded
    _unparsed = b""  # input after pipelined requests, which is parsed once they are answered
    _current: tuple[RequestResponseCycle, asyncio.Task[None]] | None = None  # the last request that was started

    @property
    def responding(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not (self.cycle.response_complete or self.cycle.disconnected)

    @property
    def rejectable(self) -> bool:
        """Whether a body is being received, or a response being sent."""
        return self.body_since is not None or self._sending

    @property
    def _sending(self) -> bool:
        """Whether a response has begun, or could not, since the client is to read first."""
        return self.responding and (self.cycle.response_started or self.flow.write_paused)

    @property
    def streaming(self) -> bool:
        """Whether the app has begun a response that is not complete."""
        return self._current is not None and (
            self._current[0].response_started and not self._current[0].response_complete
        )

    @property
    def idle(self) -> bool:
        """Whether no request is being received or answered."""
        return not self.responding and self.head_since is None and self.body_since is None

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is done here: the client is to send a request or the rest of one, or to read."""
        return not self.responding or self.body_since is not None or self.flow.write_paused

    def close_if_idle(self, since: float) -> None:
        """Close the connection if it has been idle since before `since`, and its client has read the last response.

        How slowly a client may read is for `check_timeouts`.
        """
        if not self.idle or self.idle_since > since or (self.flow.write_paused and not self.lingering):
            return
        if self.transport.is_closing() or self.lingering:
            self.transport.abort()  # the client does not read, so `close` would wait
        else:
            self.transport.close()

    def close_after_response(self) -> None:
        """Close after a response; what the client still sends is discarded first, since a reset could overtake it."""
        if self.body_since is None or self.pipeline:
            self.transport.close()
            return
        self._linger()
        self._write_eof()

    def _linger(self) -> None:
        self._input_ended, self.lingering, self._unparsed = True, True, b""
        if self.responding:  # the app has failed in the middle
            self.cycle.disconnected = True
        self.head_since, self.body_since, self.idle_since = None, None, self.loop.time()
        if self.headers:  # of a head that is not complete
            self.headers.clear()
        self.flow.resume_reading()  # the app may have left a body unread

    def _write_eof(self) -> None:
        if self.transport.can_write_eof():  # TLS cannot; `Connection: close` tells the client
            self.transport.write_eof()

    def disable_keep_alive(self) -> None:
        """Make the response that has not started the last one of the connection."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def end_stream(self) -> None:
        """Let the app's `receive` return, so that it finds `lifecycle.closing_streams` set."""
        if self._current is not None and self.streaming:
            self._current[0].message_event.set()

    def terminate(self) -> None:
        """Close the connection as the process exits; a request that is not answered yet gets a 503."""
        if self.idle:
            self.transport.close()
        else:
            self.close_with_error(ShuttingDown.status, ShuttingDown.code, ShuttingDown.default_message)

    def reject_body(self, status: int, code: str, message: str) -> None:
        """Reject a body; a request that runs without it is answered, since it may be done already."""
        scope = cast("Scope", self.cycle.scope) if self.responding and not self.pipeline else {}
        if scope.get(ASKED_FOR_BODY) is False:
            bodies.release(self)
            scope[BODY_DISCARDED] = self._input_ended = True
            self.cycle.body, self.cycle.keep_alive = bytearray(), False
        elif self.body_since is None and self._sending:
            self.abort_response("The bodies of all requests take too much memory")
        else:
            self.close_with_error(status, code, message)

    def reject_queue(self) -> None:
        """Reject input that takes memory that others need; a request before it is answered."""
        if self.responding and self.body_since is None:
            self._close_after_current()
        else:
            self.reject_body(Overloaded.status, Overloaded.code, Overloaded.default_message)

    def _close_after_current(self) -> None:
        self._input_ended, self._unparsed = True, b""
        queues.release(self)
        self.head_since = self.body_since = None
        self.cycle.keep_alive = False
        if self.cycle.response_complete:
            self.transport.close()

    def close_with_error(self, status: int, code: str, message: str) -> None:
        """Close the connection with this response, or without one if another has started."""
        started = self.responding and (self.cycle.response_started or len(self.pipeline) > 0)
        answered = not self.responding and self.body_since is not None
        if self.transport.is_closing() or self.lingering or started or answered:
            self.transport.abort()
            return
        scope: Scope = {"type": "http", "headers": [], "path": ""}
        if self.responding:
            scope = dict(self.cycle.scope)
            self.cycle.disconnected = True  # what the app sends from now on is dropped
            self.cycle.message_event.set()
            if self._current is not None and inspect.getcoroutinestate(_coroutine(self._current[1])) == "CORO_CREATED":
                self._current[1].cancel()  # or an app that does not read the body would do what is rejected
                count_rejected(status)
        else:
            count_rejected(status)
        self._linger()
        # In a copy of the context: the trace id must not stay in the one that later requests run in.
        contextvars.copy_context().run(self._send_error, scope, status, code, message)

    def bytes_per_second(self) -> float:
        """Return how fast the client reads what it has not read."""
        return bytes_per_second(self)

    def abort_response(self, reason: str) -> None:
        """Close the connection in the middle of a response, whose access line is already written."""
        logger.warning("%s", reason, extra={"client": self.client[0] if self.client else None})
        responses.release(self)
        self.transport.abort()

    def _send_error(self, scope: Scope, status: int, code: str, message: str) -> None:
        self.transport.write(render_error(scope, self.server_state.default_headers, status, code, message))
        self._write_eof()
        extra = {"status": status, "client": self.client[0] if self.client else None}
        logger.info("%s", message, extra=extra)
