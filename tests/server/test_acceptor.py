"""New connections are shared among the workers, and wait for nobody who does not come."""

import asyncio
import contextlib
import math
import resource
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from app.server.acceptor import Acceptor
from app.server.shared_state import SharedState
from tests.server.conftest import Start, worker_of
from tests.support.service import eventually


def test_connections_that_come_together_are_shared(start: Start) -> None:
    service = start(WEB_CONCURRENCY=2)
    eventually(lambda: len({worker_of(service) for _ in range(10)}) == 2)
    smaller: list[int] = []
    # A worker to which the machine gives no time takes fewer: of thirty rounds, five in a row are to be shared.
    while len(smaller) < 5 or sum(smaller[-5:]) <= 5 * 9:
        assert len(smaller) < 30, smaller
        connections = [service.connect() for _ in range(32)]
        shares = Counter(connection.get("/pid")[2] for connection in connections)
        smaller.append(32 - max(shares.values()))
        for connection in connections:
            connection.close()
        time.sleep(0.3)  # until both have noted that they are gone


class _Greeter(asyncio.Protocol):
    """Says hello, and keeps the connection."""

    connections: set["_Greeter"]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.connections.add(self)
        self.transport = transport
        transport.write(b"hello")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.connections.discard(self)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.settimeout(0.0)
        yield listener


@contextlib.asynccontextmanager
async def accepting(listener: socket.socket, shared_state: SharedState) -> AsyncIterator[Acceptor]:
    """Accept, as the worker in slot 0."""
    _Greeter.connections = set()
    shared_state.accepting(0)
    acceptor = Acceptor([listener], _Greeter, _Greeter.connections, shared_state, 0)
    try:
        yield acceptor
    finally:
        acceptor.close()
        for connection in list(_Greeter.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


async def greeted(listener: socket.socket, number: int) -> float:
    """Connect so often at once, and tell after how many seconds all had been welcomed."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    pairs = await asyncio.gather(*(asyncio.open_connection(*listener.getsockname()) for _ in range(number)))
    try:
        async with asyncio.timeout(60):
            assert {await reader.readexactly(5) for reader, _ in pairs} == {b"hello"}
        return loop.time() - began
    finally:
        for _, writer in pairs:
            writer.close()


def test_a_worker_that_does_not_come_is_waited_for_a_moment_only(listener: socket.socket) -> None:
    async def main() -> None:
        shared_state = SharedState()
        shared_state.accepting(1)  # and it hangs
        async with accepting(listener, shared_state):
            assert await greeted(listener, 100) < 10

    asyncio.run(main())


def test_only_those_count_who_accept_and_stay() -> None:
    shared_state = SharedState()
    assert shared_state.fewest_connections() == math.inf
    for slot, connections in enumerate((7, 5, 3)):
        shared_state.accepting(slot)
        shared_state.connected(slot, connections)
    assert shared_state.fewest_connections() == 3
    shared_state.retiring(2)
    assert shared_state.fewest_connections() == 5
    shared_state.gone(1)
    assert shared_state.fewest_connections() == 7


def test_a_shortage_of_descriptors_passes(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        shared_state = SharedState()
        async with accepting(listener, shared_state):
            await greeted(listener, 1)
            with socket.create_connection(listener.getsockname()) as client:
                resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
                try:
                    async with asyncio.timeout(60):
                        while "Cannot accept connections" not in caplog.text:  # noqa: ASYNC110 - no event is set
                            await asyncio.sleep(0.01)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                client.settimeout(0.0)
                hello = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 5), 60)
                assert hello == b"hello"

    with caplog.at_level("ERROR"):
        asyncio.run(main())
