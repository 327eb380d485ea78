"""How a worker's server ends: it drains, or hands over, and loses no request.

*Halting*: the whole service ends. Readiness turns, requests are served until the drain is over.
*Retiring*: this worker alone is replaced (reload, TTOU, `max_requests`); others take over.
Either way every answer says `Connection: close` from then on, so that a keep-alive client does not send
its next request at the very moment at which we close.
"""

import asyncio
import contextlib
import gc
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

from app.core.lifecycle import lifecycle
from app.server.acceptor import Acceptor
from app.server.protocol import ServiceProtocol, read_on
from app.server.shared_state import SharedState

# All in seconds.
LIFESPAN_SECONDS = 5.0  # the app's own shutdown may take so long
_TICK = 0.1
_TICKS_PER_SWEEP = 10
# A connection that was not told, and is quiet for so long, is closed. A halting server was asked
# not to be used any more; a retiring one has the time to tell whoever comes back.
_QUIET_HALTING = 1.0
_QUIET_RETIRING = 5.0
# A successor that boots longer than this is not waited for: connections wait in the kernel's queue.
_BOOT_SECONDS = 30.0
_CLOSE = (b"connection", b"close")
# Python's own are 700 (2,000 since 3.13), 10, 10. With what was imported out of the way full rounds are cheap, and come
# often: what they find would be 10 MB a worker with 10,000, 10, 10, and costs no less (docs/performance.md).
_GC_THRESHOLDS = 3_000, 2, 2

logger = logging.getLogger("uvicorn.error")


def _settle_memory() -> None:
    """Spare the garbage collector what was imported: it stays to the end.

    Otherwise each of its full rounds goes through all modules, classes and schemas, and every request on this worker
    waits for 50 ms and more; that was the 99th percentile of a read (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class ServiceServer(Server):
    """A uvicorn server that knows why it ends.

    Parameters
    ----------
    config
        uvicorn's.
    shared_state, slot
        What master and workers share, and this worker's place on it.
    parent
        Process id of the master.
    drain_seconds, finish_seconds
        How long a halting server goes on serving, and how long after that, or when retiring, the
        requests in flight may take before they are answered 503.
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
        self._quick = False
        self._ticks = 0

    @property
    def _connections(self) -> list[ServiceProtocol]:
        return cast("list[ServiceProtocol]", list(self.server_state.connections))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGQUIT to the very end.

        uvicorn restores the handlers and raises the signals again: gunicorn would call that a death.
        """
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Leave; `on_tick` finds out whether we halt or retire."""
        self.should_exit = True

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Leave without waiting: what is in flight is answered 503."""
        self.should_exit = self._quick = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell retiring workers that they may stop accepting."""
        await super().startup(sockets=[])
        _settle_memory()
        self._shared_state.accepting(self._slot)
        connections = self.server_state.connections
        self._acceptor = Acceptor(
            sockets or [], self._make_protocol, connections, self._shared_state, self._slot, tls=self.config.ssl
        )

    def _make_protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether to leave, and once a second at every connection."""
        if not lifecycle.draining:
            self._look_up()
        read_on()
        self._acceptor.report()
        if counter % _TICKS_PER_SWEEP == 0:
            now = asyncio.get_running_loop().time()
            for connection in self._connections:
                connection.sweep(now)
        return await super().on_tick(counter)

    def _look_up(self) -> None:
        """See whether the whole service ends: the master says so, or is gone."""
        orphaned = os.getppid() != self._parent
        if not (orphaned or self._shared_state.halting or self._quick):
            return
        if orphaned:
            # At once: as long as we listen, a new master cannot.
            logger.warning("The master is gone")
        drain = self._drain_seconds if self._shared_state.drains and not orphaned else 0.0
        self._drained_at = asyncio.get_running_loop().time() + drain
        lifecycle.draining = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """End: tell, go on serving, stop accepting, finish, and let the app shut down."""
        self.should_exit = True
        self._shared_state.retiring(self._slot)
        self._look_up()
        self._say_close()
        logger.info("Halting" if lifecycle.draining else "Retiring")
        await self._serve_on()
        self._shared_state.leaving(self._slot)
        self._acceptor.close()
        if not await self._finish():
            await self._cut_off()
        await self._end_lifespan()

    def _say_close(self) -> None:
        """Make every answer from now on its connection's last."""
        self.config.encoded_headers.append(_CLOSE)
        self.server_state.default_headers.append(_CLOSE)
        for connection in self._connections:
            connection.say_close()

    async def _serve_on(self) -> None:
        """Go on accepting until the drain is over, or somebody else accepts."""
        loop = asyncio.get_running_loop()
        started, former = loop.time(), set(self._connections)
        while not self._quick:
            await self._tick()
            former.intersection_update(self._connections)
            if lifecycle.draining:
                if loop.time() >= self._drained_at:
                    return
            elif self._handed_over(loop.time() - started, former):
                return

    def _handed_over(self, waited: float, former: AbstractSet[ServiceProtocol]) -> bool:
        """Tell whether a retiring worker may stop accepting; `former` were here before it retired."""
        if self._shared_state.anyone_accepting():
            return True
        if self._shared_state.successor_expected(self._slot):
            return waited >= _BOOT_SECONDS
        # Nobody will before we are gone: gunicorn replaces a recycled worker only after its exit. The
        # kernel queues who comes meanwhile; those who are here must be told before that.
        return not former or waited >= _QUIET_RETIRING

    async def _finish(self) -> bool:
        """Serve the connections that are left, each to its last answer; say whether all are gone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._finish_seconds
        while not self._quick and loop.time() < deadline:
            await self._tick()
            quiet = _QUIET_HALTING if lifecycle.draining else _QUIET_RETIRING
            for connection in self._connections:
                connection.close_if_quiet(loop.time() - quiet)
            if self._idle():
                return True
        return False

    async def _cut_off(self) -> None:
        """Answer what outlived its time with a 503, and cancel the work behind it."""
        tasks = self.server_state.tasks
        logger.warning("Out of time: %d requests are cut off", len(tasks))
        for connection in self._connections:
            connection.end_late()
        for task in list(tasks):
            task.cancel()
        await self._wait(self._idle, 1.0)

    async def _end_lifespan(self) -> None:
        """Let the app shut down, within a bound."""
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
        """Let the loop work, and keep up the clock, the sweep, and the signs of life to the master."""
        self._ticks += 1
        await asyncio.sleep(_TICK)
        await self.on_tick(self._ticks)
