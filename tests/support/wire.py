"""Counts round trips on the wire: how often PostgreSQL says that it is ready for the next query."""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

_READY_FOR_QUERY = ord("Z")
_HEAD = struct.Struct("!Bi")


class Wire:
    """A relay in front of PostgreSQL.

    Attributes
    ----------
    url
        Of the relay, to be given to the service.
    round_trips
        So far.
    """

    def __init__(self, url: str) -> None:
        self._there = urlsplit(url)
        self.round_trips = 0
        self.url = ""
        self._relays: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        account = self._there.netloc.rpartition("@")[0]
        self.url = urlunsplit(self._there._replace(netloc=f"{account}@127.0.0.1:{port}"))

    async def close(self) -> None:
        """Close the listener and every connection."""
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.get_running_loop().create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._there.hostname, self._there.port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, there[1]))
                both.create_task(self._count(there[0], writer))
        except* (ConnectionError, asyncio.IncompleteReadError):
            pass  # one of the two has closed it
        finally:
            for end in (writer, there[1]):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay message by message; only the answer to a question about TLS has no length."""
        first = await reader.readexactly(1)
        writer.write(first)
        if first != b"N":
            length = await reader.readexactly(4)
            writer.write(length + await reader.readexactly(int.from_bytes(length) - 4))
        while True:
            head = await reader.readexactly(_HEAD.size)
            kind, length_ = _HEAD.unpack(head)
            body = await reader.readexactly(length_ - 4)
            self.round_trips += kind == _READY_FOR_QUERY  # before the client can ask for the number
            writer.write(head + body)
            await writer.drain()


@contextlib.contextmanager
def counted(url: str) -> Iterator[Wire]:
    """Relay, in a thread, to the PostgreSQL at `url`."""
    wire, loop = Wire(url), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(wire.open(), loop).result(60)
    try:
        yield wire
    finally:
        asyncio.run_coroutine_threadsafe(wire.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
