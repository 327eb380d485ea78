"""WebSockets that send before they may, or more than the application takes."""

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.hostile.ordinary import cpu_of, memory_of
from tests.server.conftest import launch
from tests.server.test_websocket import APP, HANDSHAKE, close_code, frame
from tests.support.http import Connection
from tests.support.service import Service

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = launch(tmp_path_factory.mktemp("service"), app=APP).wait_until_alive()
    yield running
    assert running.stop() == 0
    errors = [line for line in running.lines() if line["level"] in {"ERROR", "CRITICAL"}]
    assert [line for line in errors if line["message"] != "periodic job failed"] == []  # there is no database


def opened(service: Service, path: bytes = b"/ws") -> Connection:
    """Open a WebSocket that is only bytes."""
    connection = service.connect()
    connection.send(HANDSHAKE % path + b"\r\n")
    assert connection.head().status == 101
    return connection


def send_what_fits(connection: Connection, data: bytes) -> None:
    """Send until the sockets' buffers are full."""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while data:
            data = data[connection.socket.send(data, socket.MSG_DONTWAIT) :]


def long_frame(opcode: int, length: int) -> bytes:
    """Make the head of a frame that is not the last one."""
    return bytes([opcode, 0xFF]) + struct.pack("!Q", length) + bytes(4)


@pytest.mark.parametrize("early", [b"GET / HTTP/1.1\r\n\r\n", frame(9, b"ping") + frame(1, b"\xff")])
def test_what_comes_before_the_answer_to_the_handshake_waits_for_it(service: Service, early: bytes) -> None:
    connection = service.connect()
    connection.send(HANDSHAKE % b"/ws" + b"\r\n" + early)

    assert connection.head().status == 101
    if early.startswith(b"\x89"):
        assert connection.read(6) == b"\x8a\x04ping"
    assert close_code(connection) in {1002, 1007}


def test_messages_that_the_application_does_not_take_are_not_parsed(service: Service) -> None:
    [worker] = service.wait_for_workers(1)
    before = memory_of(worker)
    attackers = [opened(service, b"/ws/deaf") for _ in range(250)]
    for attacker in attackers:
        send_what_fits(attacker, frame(1) * 200_000)
    assert service.get("/health/live").status == 200
    assert memory_of(worker) - before < 48


@pytest.mark.parametrize("small", [frame(1), frame(9)], ids=["messages", "pings"])
def test_very_many_small_frames_are_parsed_in_turn(service: Service, small: bytes) -> None:
    [worker] = service.wait_for_workers(1)
    attackers = [opened(service, b"/ws/sink") for _ in range(12)]
    for attacker in attackers:
        send_what_fits(attacker, small * 20_000)
    before = cpu_of(worker)
    assert service.get("/health/live").status == 200
    assert cpu_of(worker) - before < 0.5, "seconds of the event loop before one more request was answered"


def test_unfinished_messages_are_limited_together(service: Service) -> None:
    [worker] = service.wait_for_workers(1)
    before = memory_of(worker)
    attackers = [opened(service) for _ in range(80)]
    for attacker in attackers:
        with contextlib.suppress(OSError):
            attacker.send(long_frame(1, MIB - 10) + bytes(MIB - 100))
    with connect(f"ws://127.0.0.1:{service.port}/ws", compression=None, open_timeout=60) as client:
        client.send("ordinary")
        assert client.recv(timeout=60) == "ordinary"
    assert close_code(attackers[0]) == 1013
    assert memory_of(worker) - before < 64


def test_a_client_that_has_not_read_its_last_response_is_not_sent_more(service: Service) -> None:
    [worker] = service.wait_for_workers(1)
    before = memory_of(worker)
    connection = service.connect()
    assert connection.stream("/big").status == 200  # more than the sockets' buffers take
    connection.send(HANDSHAKE % b"/ws" + b"\r\n")
    connection.socket.settimeout(3)
    with pytest.raises(TimeoutError):  # what `/ws` would send back is not received
        connection.send((struct.pack("!BBH", 0x82, 0xFE, 60_000) + bytes(60_004)) * 1_000)
    assert memory_of(worker) - before < 40  # of which the response has 20


def test_what_comes_before_the_answer_to_the_handshake_is_limited_together(service: Service) -> None:
    attackers = [service.connect() for _ in range(80)]
    for attacker in attackers:
        attacker.send(HANDSHAKE % b"/ws/late" + b"\r\n")
        send_what_fits(attacker, long_frame(1, MIB - 10) + bytes(MIB - 100))
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + bytes(9 * MIB) + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert service.client.post("/upload", content=form, headers=headers).json() == {"size": 9 * MIB}
    assert attackers[0].answer().status == 503
