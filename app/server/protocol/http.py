"""HTTP/1.1 on one connection."""

import asyncio
import select
from typing import Any, cast

from starlette.types import Scope
from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.core.lifecycle import EARLY_RETRY, REJECT, REJECTED, Reject, Rejection
from app.server.protocol.budgets import bodies, hold_response, queues, responses
from app.server.protocol.head import has_body, keep_needless_encoding
from app.server.protocol.input import InputProtocol, PipelineFlow
from app.server.protocol.responses import JoinedHead, render
from app.server.protocol.throttle import throttle
from app.server.protocol.timeouts import check_timeouts, count_unread

_SMALL_BODY = 64 * 1024


class ServiceProtocol(InputProtocol):
    """One connection. Times are those of the event loop's clock, in seconds.

    Attributes
    ----------
    early_retry
        Whether input that comes now was sent during the pause after a rejection.
    last_unread
        Bytes that the client had not read when that was last seen.
    written
        Bytes of the last part of a response: all of it is kept until the kernel has taken the last one.
    """

    early_retry = False
    last_unread = 0
    written = 0

    _rejected = False  # by the app, the last request that it has answered: the pause is still to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the idle time, and have `pause_writing` called for all that the kernel does not take at once."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(1)
        self.flow = PipelineFlow(transport, self)
        self.idle_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request of a client that has disconnected."""
        super().connection_lost(exc)
        self._unparsed = b""
        bodies.release(self)
        queues.release(self)
        responses.release(self)
        if self._current is None:
            return
        cycle, task = self._current
        if not cycle.response_complete:
            cycle.disconnected = True  # uvicorn tells the newest one, which may be queued behind this
            self.loop.call_soon(task.cancel)  # after its first step, so that it is counted and logged

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request or queue it; uvicorn calls this at the end of a head.

        It may have come in one piece with the end of a body, so that `_waits` was still false.
        """
        self.pipeline.appendleft((cycle, app))
        self._start_next()

    def _start_next(self) -> None:
        """Start or reject the request that was queued first, once the client has read and the pause is over."""
        if self.throttled or self.flow.write_paused:
            return
        if self.pipeline:
            self._start(*self.pipeline.pop())
        if self._unparsed:
            self._parse_soon()

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self.early_retry:
            cycle.scope[EARLY_RETRY] = True  # type: ignore[literal-required]
        reject: Reject | None = self.app_state.get(REJECT)
        rejection = reject and reject(cast("Scope", cycle.scope))
        if rejection is None:
            self._run(cycle, app)
        else:
            self._reject(cycle, rejection)

    def _run(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        keep_needless_encoding(cast("dict[str, Any]", cycle.scope))
        if cycle.scope["method"] != "HEAD":  # which has no body to wait for
            cycle.transport = cast("asyncio.Transport", JoinedHead(cycle, self))
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
        if (close or not cycle.keep_alive) and has_body(cycle.scope["headers"]):
            self.close_after_response()
        elif close or not cycle.keep_alive:
            self.transport.close()
        else:
            self._throttle()
            self._forget_head()

    def on_response_complete(self) -> None:
        """Start the next request, once the client has read; like uvicorn's, without its keep-alive timer."""
        self.server_state.total_requests += 1
        bodies.release(self)
        if self._current is not None:
            self._current[0].body = bytearray()  # what the app has not read, which nothing will
        if self.transport.is_closing():
            return
        self.idle_since = self.loop.time()
        self._rejected = self._current is not None and REJECTED in self._current[0].scope
        if self._rejected and self._current is not None and not self._current[0].more_body:
            self._throttle()
        self._start_next()
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._forget_head()

    def start_stream(self) -> None:
        """Count a small body no longer, now that a stream begins, which may be open for long."""
        if bodies.size(self) <= _SMALL_BODY:
            bodies.release(self)

    def on_message_complete(self) -> None:
        """Note that the body is complete; if its request was rejected meanwhile, pause now."""
        super().on_message_complete()
        if self._rejected and not self.responding:
            self._throttle()

    def _forget_head(self) -> None:
        """Let go of the scope of the last request, which may have 50 KB, while the connection is idle."""
        if self.responding:
            return
        scope, self.cycle.scope = self.cycle.scope, cast("HTTPScope", {})
        if self.scope is scope:  # else it is that of a head that is being received
            self.scope = self.cycle.scope

    def _throttle(self) -> None:
        """Pause reading and parsing after a rejection."""
        self._rejected = False
        if not self.throttled:
            self.throttled = True
            self.flow.pause_reading()
            throttle(self)

    def close_if_left(self) -> bool:
        """Close the connection if its client has closed it; return whether it is closed."""
        if not self.transport.is_closing():
            poll = select.poll()
            poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
            if poll.poll(0):
                self.transport.abort()
        return self.transport.is_closing()

    def resume_reading(self) -> None:
        """Read again after a rejection."""
        self.early_retry, self.throttled = True, False
        if not self.transport.is_closing():
            self._start_next()
            self.flow.resume_reading()

    @property
    def active_at(self) -> float:
        """When the client last sent or read something; that it reads is seen once a second."""
        return max(self.idle_since, self._received_at)

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        self.write_paused_since = self.loop.time()
        self.unread = self.last_unread = count_unread(self.transport)
        super().pause_writing()
        hold_response(self, max(self.written, self.transport.get_write_buffer_size()))

    def resume_writing(self) -> None:
        """Note that the kernel has taken all of the response, and start the next request if it is complete."""
        responses.release(self)
        self.idle_since = self.loop.time()
        super().resume_writing()
        if not self.transport.is_closing() and (self._current is None or self._current[0].response_complete):
            self._start_next()
            self.flow.resume_reading()

    def check_timeouts(self, now: float) -> None:
        """Close the connection if its client is too slow; called once a second."""
        check_timeouts(self, now)
