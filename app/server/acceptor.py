"""Accepts new connections, shared evenly among the workers.

All workers wait on the same listeners, and the one that wakes first would accept every connection: of 32 that were
opened at once, one of two idle workers got 24 to 32, and served their requests alone for as long as they were open
(docs/adr/0017-*). So a worker that has more connections than others pauses accepting for a moment.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Collection, Sequence

from app.server.protocol.http import ServiceProtocol
from app.server.shared_state import SharedState

# At most so many per iteration of the event loop, so that open connections are served in between.
_BATCH = 8
# A worker pauses if it has this many connections, plus an eighth of its own, more than the worker with the fewest.
_LEAD = 2
_LEAD_DIVISOR = 8
# Seconds of the pause, and how many connections are accepted after it in any case: another worker may hang.
_PAUSE_SECONDS = 0.002
_AFTER_PAUSE = 4
# Seconds for a TLS handshake, as for a head.
_HANDSHAKE_SECONDS = 10.0
# Seconds until there may be file descriptors or memory again (as in asyncio).
_EXHAUSTED_SECONDS = 1.0
# Seconds after connections were closed to make room: a line is logged each time.
_FREED_SECONDS = 0.05
# Of `enum tcp_states` in Linux.
_ESTABLISHED = 1
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger("uvicorn.error")


class Acceptor:
    """Accepts at every listener until it is closed.

    Parameters
    ----------
    listeners
        Listening sockets that do not block.
    make_protocol
        Creates the protocol of a connection.
    connections
        The open connections.
    shared_state, slot
        Memory that all workers share, and this worker's index in it.
    tls
        Set if connections begin with a TLS handshake.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        connections: Collection[object],
        shared_state: SharedState,
        slot: int,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = listeners
        self._make_protocol = make_protocol
        self._connections = connections
        self._shared_state = shared_state
        self._slot = slot
        self._tls = {"ssl": tls, "ssl_handshake_timeout": _HANDSHAKE_SECONDS} if tls else {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._arriving = 0
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept_fairly, listener)

    def _stop(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def _wait(self, seconds: float) -> None:
        self._stop()
        if self._pause is not None:
            self._pause.cancel()
        self._pause = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        """Accept some waiting connections in any case, and listen again."""
        self._pause = None
        self._listen()
        for listener in self._listeners:
            self._accept(listener, _AFTER_PAUSE)

    def close(self) -> None:
        """Stop accepting, and close the listeners."""
        if self._pause is not None:
            self._pause.cancel()
        self._stop()
        for listener in self._listeners:
            listener.close()

    @property
    def arriving(self) -> bool:
        """Whether a connection was accepted that has no protocol yet."""
        return bool(self._tasks)

    def report(self) -> int:
        """Tell the other workers how many connections this one has."""
        number = len(self._connections) + self._arriving
        self._shared_state.connected(self._slot, number)
        return number

    def _accept_fairly(self, listener: socket.socket) -> None:
        for _ in range(_BATCH):
            number = self.report()
            if number >= self._shared_state.fewest_connections() + _LEAD + number // _LEAD_DIVISOR:
                self._wait(_PAUSE_SECONDS)
                return
            if not self._accept(listener, 1):
                return

    def _accept(self, listener: socket.socket, number: int) -> bool:
        """Accept up to `number` connections; return whether there were as many."""
        for _ in range(number):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                logger.error("Cannot accept connections: %s", error)  # noqa: TRY400 - a traceback says no more
                self._wait(_FREED_SECONDS if self._close_oldest() else _EXHAUSTED_SECONDS)
                return False
            if _has_ended(connection):
                connection.close()
                continue
            connection.settimeout(0.0)
            self._arriving += 1
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    def _close_oldest(self) -> bool:
        """Close those whose client has done nothing for longest, if any: new ones need their file descriptors."""
        waiting = [c for c in self._connections if isinstance(c, ServiceProtocol) and c.waits_for_client]
        for connection in sorted(waiting, key=lambda c: c.active_at)[:_BATCH]:
            connection.transport.abort()
        return bool(waiting)

    async def _serve(self, connection: socket.socket) -> None:
        def make_protocol() -> asyncio.Protocol:
            self._arriving -= 1  # from here on it is in `connections`
            return self._make_protocol()

        try:
            await self._loop.connect_accepted_socket(make_protocol, connection, **self._tls)  # type: ignore[arg-type]
        except OSError as error:
            connection.close()
            logger.info("A connection ended before its handshake was complete: %s", error)


def _has_ended(connection: socket.socket) -> bool:
    """Return whether the client closed or reset a connection while it waited; a Unix socket does not tell."""
    if connection.family == socket.AF_UNIX:
        return False
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED
