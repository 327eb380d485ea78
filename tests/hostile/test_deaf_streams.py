"""Clients of streams and WebSockets that do not read: their connections end, and take little memory until then."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.hostile.ordinary import memory_of
from tests.server.conftest import launch, sample
from tests.server.test_websocket import HANDSHAKE, frame
from tests.support.http import Connection
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

NUMBER = 30
WRITE_SECONDS = 3  # instead of 30
GROWTH = 40  # MiB
EVENTS = b"GET /events?pause=0&size=20000 HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    running = launch(folder, app="tests.server.stream_app:app", TEST_WRITE_SECONDS=WRITE_SECONDS).wait_until_alive()
    running.wait_for_workers(1)
    yield running
    assert running.stop() == 0


@contextlib.contextmanager
def deaf_clients(service: Service, head: bytes) -> Iterator[list[socket.socket]]:
    """Open connections on which `head` was sent, and whose small buffers are never read."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(NUMBER)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect(("127.0.0.1", service.port))
            client.sendall(head)
            assert client.recv(12, socket.MSG_PEEK).startswith(b"HTTP/1.1 ")
        yield clients


def check_that_they_end(service: Service, before: int) -> None:
    """Check that others are served meanwhile, that memory stays within its limit, and that no stream is left."""
    [worker] = service.workers()
    most = memory_of(worker)

    def ended() -> bool:
        nonlocal most
        most = max(most, memory_of(worker))
        with Connection(service.port) as ordinary:
            assert ordinary.get("/health/live").status == 200
        return sample(service, "http_streams_open") == 0

    eventually(ended, 60, seen=lambda: sample(service, "http_streams_open"))
    assert most - before <= GROWTH


def test_pings_whose_answers_are_not_read(service: Service) -> None:
    [worker] = service.workers()
    before = memory_of(worker)
    pings = frame(9, b"x" * 125) * 5_000
    with deaf_clients(service, HANDSHAKE % b"/ws" + b"\r\n") as clients:
        for client in clients:
            client.settimeout(0.2)
            with contextlib.suppress(OSError):  # it is not read any more, or was closed
                for _ in range(20):
                    client.sendall(pings)
        check_that_they_end(service, before)


def test_events_that_are_not_read(service: Service) -> None:
    [worker] = service.workers()
    before = memory_of(worker)
    with deaf_clients(service, EVENTS):
        assert sample(service, "http_streams_open") > 0
        check_that_they_end(service, before)
    late = "The client did not read the response in time"
    eventually(lambda: service.messages().count(late) >= NUMBER, seen=service.messages)
