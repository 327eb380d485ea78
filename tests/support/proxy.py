"""A network between the service and PostgreSQL that fails in the way it is told to."""

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tests.support.service import free_port

T = TypeVar("T")


class Cut(enum.Enum):
    """When a connection breaks, as seen from the statement that it carries."""

    IN_STATEMENT = "half of it has been sent"
    AFTER_COMMIT = "it has been committed, and the answer is lost"


class Connection:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def abort(self) -> None:
        """Break it, with a reset."""
        with contextlib.suppress(OSError):
            raw = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Proxy:
    """Passes bytes on, unless told otherwise; lives in a thread of its own.

    Attributes
    ----------
    url
        The database of the given URL, through the proxy.
    latency
        Seconds by which each packet is late, each way.
    cuts
        How many connections were broken in a statement so far.
    accepted
        How many connections were made to it so far.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._made: list[Connection] = []
        self._ends: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stranded: set[Connection] = set()
        self._wanted: tuple[bytes, Cut, int] | None = None
        self.latency = 0.0
        self.cuts = 0
        self.accepted = 0
        self._delivering = self._do(self._event())
        self._port = free_port()  # not one of the system's, which it would give to others while nothing listens
        self._listener = self._do(self._listen(self._port))
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._port}"))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _call(self, work: Callable[[], object]) -> None:
        async def call() -> None:
            work()

        self._do(call())

    async def _event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def _listen(self, port: int) -> socket.socket:
        """Listen; not by `asyncio.start_server`, which leaks a connection that it accepts as it is closed (3.13)."""
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        listener.settimeout(0)
        self._loop.add_reader(listener, self._accept, listener)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            accepted, _ = listener.accept()
            self.accepted += 1
            self._track(self._loop.create_task(self._serve(accepted)))

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            client = Connection(*await asyncio.open_connection(sock=accepted))
        except BaseException:
            accepted.close()
            raise
        self._made.append(client)
        try:
            server = Connection(*await asyncio.open_connection(*self._target))
        except OSError:
            client.abort()
            return
        self._made.append(server)
        self._ends |= {client, server}
        for pump in (self._requests(client, server), self._answers(server, client)):
            self._track(self._loop.create_task(pump))

    def _track(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _requests(self, client: Connection, server: Connection) -> None:
        with contextlib.suppress(OSError):
            while data := await client.reader.read(65536):
                await self._pass(client)
                if (cut := self._cut_for(data)) is not None:
                    self.cuts += 1
                    server.writer.write(data[: len(data) // 2] if cut is Cut.IN_STATEMENT else data)
                    await server.writer.drain()
                    # The other pump finds the client gone, and drops the answer.
                    client.abort()
                    if cut is Cut.AFTER_COMMIT:
                        await asyncio.sleep(0.2)
                    break
                server.writer.write(data)
                await server.writer.drain()
        self._end(client, server)

    async def _answers(self, server: Connection, client: Connection) -> None:
        with contextlib.suppress(OSError):
            while data := await server.reader.read(65536):
                await self._pass(client)
                client.writer.write(data)
                await client.writer.drain()
        self._end(client, server)

    async def _pass(self, client: Connection) -> None:
        if self.latency:
            await asyncio.sleep(self.latency)
        await self._delivering.wait()
        if client in self._stranded:
            await asyncio.Event().wait()

    def _cut_for(self, data: bytes) -> Cut | None:
        if self._wanted is None or self._wanted[0] not in data:
            return None
        pattern, cut, times = self._wanted
        self._wanted = (pattern, cut, times - 1) if times > 1 else None
        return cut

    def _end(self, *ends: Connection) -> None:
        for end in ends:
            self._ends.discard(end)
            end.writer.close()

    def cut(self, pattern: bytes, cut: Cut, times: int = 1) -> None:
        """Break the next connections that carry `pattern` to the server."""
        self._wanted = (pattern, cut, times)

    def reset(self) -> None:
        """Break every connection."""
        self._call(self._abort_all)

    def _abort_all(self) -> None:
        for end in list(self._ends):
            end.abort()

    def refuse(self) -> None:
        """Refuse connections, and break those that are there."""
        self._call(self._stop_listening)
        self.reset()

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def accept(self) -> None:
        """Take connections again."""
        self._listener = self._do(self._listen(self._port))

    def swallow(self) -> None:
        """Deliver nothing, and say nothing: a black hole."""
        self._call(self._delivering.clear)

    def strand(self) -> None:
        """Deliver nothing more on the connections that are there; new ones work, as after a failover."""
        self._call(lambda: self._stranded.update(self._ends))

    def deliver(self) -> None:
        """Deliver again, also what was held back."""
        self._call(self._delivering.set)

    def close(self) -> None:
        """End it."""
        self.deliver()
        self.refuse()
        self._do(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _settle(self) -> None:
        """End all connections, those too that are closed but still have something to send."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._made:
            end.writer.transport.abort()
        await asyncio.sleep(0.05)  # for the event loop to close their sockets
