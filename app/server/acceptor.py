"""Takes new connections, in step with the other workers.

All workers wait at the same listeners, and whoever wakes first would take everybody: of 32 connections that were opened
at once, one of two idle workers got 24 to 32, and had their requests to itself for as long as they lived
(docs/adr/0017). So a worker that is ahead leaves new connections to the others for a moment.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Collection, Sequence

from app.server.shared_state import SharedState

# At most so many a turn of the event loop: who is connected already is served in between, and who connects to a busy
# service does not wait behind thousands.
_A_TURN = 8
# How many connections more than the least busy worker is too many: so many, and an eighth of its own.
_AHEAD = 2
_SHARE_AHEAD = 8
# Seconds for the others to come, and how many are taken after that whether they came or not: one may hang.
_MOMENT = 0.002
_AFTER_A_MOMENT = 4
# Seconds for TLS, as for a head.
_HANDSHAKE = 10.0
# Seconds until there may be descriptors or memory again (as asyncio has it).
_SHORTAGE = 1.0
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger("uvicorn.error")


class Acceptor:
    """Accepts at every listener until it is closed.

    Parameters
    ----------
    listeners
        Listening sockets that do not block.
    make_protocol
        Makes what serves a connection.
    connections
        Those that are served now.
    shared_state, slot
        What all workers share, and this worker's place on it.
    tls
        Given where connections begin with a handshake.
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
        self._tls = {"ssl": tls, "ssl_handshake_timeout": _HANDSHAKE} if tls else {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._coming = 0
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
        """Accept who still waits, whatever the others do, and go on."""
        self._pause = None
        self._listen()
        for listener in self._listeners:
            self._accept(listener, _AFTER_A_MOMENT)

    def close(self) -> None:
        """Accept no more, and close the listeners."""
        if self._pause is not None:
            self._pause.cancel()
        self._stop()
        for listener in self._listeners:
            listener.close()

    @property
    def arriving(self) -> bool:
        """Whether a connection was accepted that is not served yet."""
        return bool(self._tasks)

    def report(self) -> int:
        """Let the other workers know how many connections are here."""
        number = len(self._connections) + self._coming
        self._shared_state.connected(self._slot, number)
        return number

    def _accept_fairly(self, listener: socket.socket) -> None:
        for _ in range(_A_TURN):
            number = self.report()
            if number >= self._shared_state.fewest_connections() + _AHEAD + number // _SHARE_AHEAD:
                self._wait(_MOMENT)
                return
            if not self._accept(listener, 1):
                return

    def _accept(self, listener: socket.socket, number: int) -> bool:
        """Accept so many connections; tell whether there were as many."""
        for _ in range(number):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                if error.errno not in _SHORT:
                    raise
                logger.error("No connection can be accepted: %s", error)  # noqa: TRY400 - the system's reason is all
                self._wait(_SHORTAGE)
                return False
            connection.settimeout(0.0)
            self._coming += 1
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _serve(self, connection: socket.socket) -> None:
        def make_protocol() -> asyncio.Protocol:
            self._coming -= 1  # from here on it is among the connections
            return self._make_protocol()

        try:
            await self._loop.connect_accepted_socket(make_protocol, connection, **self._tls)  # type: ignore[arg-type]
        except OSError as error:
            connection.close()
            logger.info("A connection ended before it was served: %s", error)
