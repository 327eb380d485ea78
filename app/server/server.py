"""A worker's server, and how it shuts down without losing a request.

*Shutting down*: the whole service ends. Readiness becomes 503, and requests are served until the drain is over.
*Retiring*: this worker alone is replaced (reload, TTOU, `max_requests`), and others take over.
Either way every response says `Connection: close` from then on, so that a keep-alive client does not send its next
request just as the connection is closed.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from types import FrameType
from typing import cast

from uvicorn.config import Config
from uvicorn.server import Server

from app.core.lifecycle import SHUTDOWN, lifecycle
from app.server.acceptor import Acceptor
from app.server.garbage_collection import freeze_imports
from app.server.protocol.http import ServiceProtocol
from app.server.protocol.throttle import resume_throttled
from app.server.protocol.websocket import ServiceWebSocket
from app.server.shared_state import SharedState

# All in seconds.
LIFESPAN_SECONDS = 5.0  # for the app's own shutdown
# Between `Shutdown`, which applications may await, and the end of the streams that are still open.
_STREAM_SECONDS = 1.0
_TICK = 0.1
_TICKS_PER_CHECK = 10  # of the connections' timeouts
# A connection that got no `Connection: close` yet is closed when it has been idle for so long. When the service shuts
# down, load balancers were told before; a retiring worker has the time to tell clients that come back.
_IDLE_SHUTTING_DOWN = 1.0
_IDLE_RETIRING = 5.0
# For a successor to boot. After that new connections wait in the kernel's queue.
_BOOT_SECONDS = 30.0
_CLOSE = (b"connection", b"close")

logger = logging.getLogger("uvicorn.error")


class ServiceServer(Server):
    """A uvicorn server that knows why it shuts down.

    Parameters
    ----------
    config
        uvicorn's.
    shared_state, slot
        Memory that master and workers share, and this worker's index in it.
    parent
        Process id of the master.
    drain_seconds, finish_seconds
        For how long it accepts requests while the service shuts down; and for how long after that, or when
        retiring, requests in flight may take before they are answered 503.
    """

    def __init__(
        self,
        config: Config,
        *,
        shared_state: SharedState,
        slot: int,
        parent: int,
        drain_seconds: float,
        finish_seconds: float,
    ) -> None:
        super().__init__(config)
        self._shared_state = shared_state
        self._slot = slot
        self._parent = parent
        self._drain_seconds = drain_seconds
        self._finish_seconds = finish_seconds
        self._drained_at = 0.0
        self._immediate = False
        self._ticks = 0

    @property
    def _connections(self) -> list[ServiceProtocol | ServiceWebSocket]:
        return cast("list[ServiceProtocol | ServiceWebSocket]", list(self.server_state.connections))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGQUIT until the process exits.

        uvicorn restores the handlers and raises the signals again, and gunicorn would log that as a killed worker.
        """
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to shut down; `on_tick` finds out whether the service shuts down or this worker retires."""
        self.should_exit = True

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Shut down without waiting: requests in flight are answered 503."""
        self.should_exit = self._immediate = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell retiring workers that they may stop accepting."""
        self.lifespan.state[SHUTDOWN] = self._shutdown = asyncio.Event()
        await super().startup(sockets=[])
        freeze_imports()
        self._shared_state.accepting(self._slot)
        connections = self.server_state.connections
        self._acceptor = Acceptor(
            sockets or [], self._make_protocol, connections, self._shared_state, self._slot, tls=self.config.ssl
        )

    def _make_protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Check ten times a second whether to shut down, and once a second every connection's timeouts."""
        if not lifecycle.draining:
            self._check_for_shutdown()
        resume_throttled()
        self._acceptor.report()
        if counter % _TICKS_PER_CHECK == 0:
            now = asyncio.get_running_loop().time()
            for connection in self._connections:
                connection.check_timeouts(now)
        return await super().on_tick(counter)

    def _check_for_shutdown(self) -> None:
        """Begin to drain if the whole service shuts down: the master says so, or has died."""
        orphaned = os.getppid() != self._parent
        if not (orphaned or self._shared_state.shutting_down or self._immediate):
            return
        if orphaned:
            # Without a drain: a new master cannot listen on the port before this worker closes it.
            logger.warning("The master process has died")
        drain = self._drain_seconds if self._shared_state.drains and not orphaned else 0.0
        self._drained_at = asyncio.get_running_loop().time() + drain
        lifecycle.draining = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Drain or hand over, stop accepting, finish requests and streams, and shut down the app."""
        self.should_exit = True
        self._shared_state.retiring(self._slot)
        self._check_for_shutdown()
        self._disable_keep_alive()
        logger.info("Shutting down" if lifecycle.draining else "Retiring")
        await self._drain()
        self._shared_state.leaving(self._slot)
        self._acceptor.close()
        self._shutdown.set()
        if not await self._finish_requests():
            await self._terminate_requests()
        await self._shut_down_app()

    def _disable_keep_alive(self) -> None:
        """Make every response from now on the last one of its connection."""
        self.config.encoded_headers.append(_CLOSE)
        self.server_state.default_headers.append(_CLOSE)
        for connection in self._connections:
            connection.disable_keep_alive()

    async def _drain(self) -> None:
        """Accept connections until the drain is over, or until another worker accepts them."""
        loop = asyncio.get_running_loop()
        started, untold = loop.time(), set(self._connections)
        while not self._immediate:
            await self._tick()
            untold.intersection_update(self._connections)
            if lifecycle.draining:
                if loop.time() >= self._drained_at:
                    return
            elif self._handed_over(loop.time() - started, untold):
                return

    def _handed_over(self, waited: float, untold: AbstractSet[ServiceProtocol | ServiceWebSocket]) -> bool:
        """Return whether a retiring worker may stop accepting; `untold` are connections made before it retired."""
        if self._shared_state.any_accepting():
            return True
        if self._shared_state.successor_expected(self._slot):
            return waited >= _BOOT_SECONDS
        # No other worker will accept before this one has exited: gunicorn replaces a recycled worker only then. The
        # kernel queues new connections meanwhile; open ones must get `Connection: close` before that.
        return not untold or waited >= _IDLE_RETIRING

    async def _finish_requests(self) -> bool:
        """Serve open connections up to their last response; return whether all were closed in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._finish_seconds
        streams_end = loop.time() + min(_STREAM_SECONDS, self._finish_seconds / 2)
        while not self._immediate and loop.time() < deadline:
            await self._tick()
            if loop.time() >= streams_end:
                self._end_streams()
            timeout = _IDLE_SHUTTING_DOWN if lifecycle.draining else _IDLE_RETIRING
            for connection in self._connections:
                connection.close_if_idle(loop.time() - timeout)
            if self._idle():
                return True
        return False

    def _end_streams(self) -> None:
        lifecycle.closing_streams = True
        for connection in self._connections:
            connection.end_stream()

    async def _terminate_requests(self) -> None:
        """Answer requests that are still in flight with a 503, and cancel them."""
        lifecycle.closing_streams = True
        tasks = self.server_state.tasks
        logger.warning("SHUTDOWN_TIMEOUT is over: %d requests are cancelled", len(tasks))
        for connection in self._connections:
            connection.terminate()
        for task in list(tasks):
            task.cancel()
        await self._wait(self._idle, 1.0)

    async def _shut_down_app(self) -> None:
        """Let the app shut down, for at most `LIFESPAN_SECONDS`."""
        try:
            await asyncio.wait_for(self.lifespan.shutdown(), LIFESPAN_SECONDS)
        except TimeoutError:
            logger.error("The app's shutdown took longer than %s s", LIFESPAN_SECONDS)  # noqa: TRY400

    def _idle(self) -> bool:
        return not (self.server_state.connections or self.server_state.tasks or self._acceptor.arriving)

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition() and loop.time() < deadline:
            await self._tick()

    async def _tick(self) -> None:
        """Let the event loop run, and do what the main loop does: the clock, timeouts, and heartbeats to the master."""
        self._ticks += 1
        await asyncio.sleep(_TICK)
        await self.on_tick(self._ticks)
