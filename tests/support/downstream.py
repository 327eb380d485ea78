"""Another service, on loopback: a real server that fails in the way it is told to."""

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    connection: int
    """The port of the other end: one a connection."""
    method: str = "GET"
    body: bytes = b""


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def head(status: int, **headers: str | int) -> bytes:
    """Make the head of an answer; `retry_after=1` is `retry-after: 1`."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Some Reason\r\n{fields}\r\n".encode()


def reply(status: int, body: bytes = b"", **headers: str | int) -> Answer:
    """Answer at once."""
    return raw(head(status, content_length=len(body), **headers) + body)


def json_reply(value: Any, status: int = 200) -> Answer:
    """Answer with JSON."""
    return reply(status, json.dumps(value).encode(), content_type="application/json")


def raw(content: bytes) -> Answer:
    """Answer with these bytes, whatever they are."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return answer


def slow(seconds: float, then: Answer) -> Answer:
    """Answer after a while."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await then(writer)

    return answer


def gzip_bomb(megabytes: int) -> Answer:
    """Answer with a small body that becomes a large one: compressed twice, some kilobytes."""
    bomb = gzip.compress(gzip.compress(b"0" * megabytes * 1024 * 1024))
    return reply(200, bomb, content_encoding="gzip, gzip")


def after(event: threading.Event, later: Answer) -> Answer:
    """Answer as soon as something has happened."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        while not event.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        await later(writer)

    return answer


async def hang(_: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.sleep(60)


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a byte a second: every read is quick, and the body never ends."""
    writer.write(head(200, content_length=60))
    for _ in range(60):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(1)


async def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection (RST) before an answer."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close the connection (FIN) before an answer, as a server does with one that was idle for long."""
    writer.close()


async def reset_in_body(writer: asyncio.StreamWriter) -> None:
    """Break the connection in the middle of an answer."""
    writer.write(head(200, content_length=100) + b'{"quantity": ')
    await writer.drain()
    await reset(writer)


async def cut_in_body(writer: asyncio.StreamWriter) -> None:
    """Close the connection (FIN) in the middle of an answer."""
    writer.write(head(200, content_length=100) + b'{"quantity": ')
    writer.close()


class Stub:
    """The server.

    Attributes
    ----------
    answers
        What it does with the next requests, in turn; with the last of them it goes on for ever.
    received
        The requests so far.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = [json_reply({"quantity": 12})]
        self.received: list[Received] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def answer(self, *answers: Answer) -> None:
        """Do this from now on, and forget what came before."""
        self.received.clear()
        self.answers = list(answers)

    @property
    def tries(self) -> int:
        """How often it was asked."""
        return len(self.received)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while not writer.is_closing():
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").splitlines()
                headers = dict(line.split(": ", 1) for line in lines[1:] if line)
                port = writer.get_extra_info("peername")[1]
                names = {name.lower(): value for name, value in headers.items()}
                method, path, _ = lines[0].split()
                body = await reader.readexactly(int(names.get("content-length", 0)))
                self.received.append(Received(path, names, port, method, body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                await answer(writer)

    def close(self) -> None:
        """End it, and whatever it is still answering."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _end(self) -> None:
        await asyncio.sleep(0)  # connections that were just accepted begin to be served
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        for writer in self._writers:
            writer.transport.abort()  # a client that does not read would keep it open
        await asyncio.sleep(0)


@contextlib.contextmanager
def stub_service() -> Iterator[Stub]:
    """Run a server for a test."""
    with contextlib.closing(Stub()) as stub:
        yield stub
