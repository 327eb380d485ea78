"""WebSockets on the running service: trace id, limits, timeouts, close codes, one line at the end."""

import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.server.conftest import Start, access_lines, launch, sample, server_end
from tests.support.http import Connection
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

APP = "tests.server.stream_app:app"
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = launch(
        tmp_path_factory.mktemp("service"),
        app=APP,
        WEB_CONCURRENCY=2,
        MAX_BODY_BYTES=100_000,
        TEST_WRITE_SECONDS=3,
        TEST_DISCONNECT_SECONDS=0.5,
    ).wait_until_alive()
    yield running
    assert running.stop() == 0
    running.assert_only_json()


def websocket(service: Service, path: str, trace_id: str = "") -> ClientConnection:
    headers = {"X-Trace-ID": trace_id} if trace_id else {}
    return connect(
        f"ws://127.0.0.1:{service.port}{path}", additional_headers=headers, compression=None, open_timeout=60
    )


def frame(opcode: int, data: bytes = b"", *, last: bool = True) -> bytes:
    """Make a short frame as a client sends it (RFC 6455, section 5.2), with a mask of zeros."""
    return bytes([opcode | (0x80 if last else 0), 0x80 | len(data)]) + bytes(4) + data


def test_messages_go_both_ways_and_the_trace_id_is_in_the_handshake_and_in_one_line(service: Service) -> None:
    with websocket(service, "/ws", "talk") as client:
        assert client.response is not None
        assert client.response.headers["X-Trace-ID"] == "talk"
        client.send("hello")
        assert client.recv(timeout=60) == "hello"
        assert access_lines(service, "talk") == []
        assert sample(service, 'http_streams_open{kind="websocket"}') >= 1
    eventually(lambda: access_lines(service, "talk"))
    (line,) = access_lines(service, "talk")
    assert (line["method"], line["path"], line["status"], line["close_code"]) == ("GET", "/ws", 101, 1000)
    assert sample(service, 'http_requests_total{method="GET",path="/ws",status="101"}') >= 1
    assert sample(service, 'http_request_duration_seconds_count{method="GET",path="/ws"}') == 0
    assert sample(service, 'http_stream_duration_seconds_count{method="GET",path="/ws"}') >= 1


def test_what_comes_with_the_handshake_is_not_lost(service: Service) -> None:
    connection = service.connect()
    connection.send(HANDSHAKE % b"/ws" + b"\r\n" + frame(1, b"hi"))
    assert connection.head().status == 101
    assert connection.read(4) == b"\x81\x02hi"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nowhere", 404, "NOT_FOUND"),
        ("/%77s", 404, "NOT_FOUND"),
        ("/ws/denied", 403, "FORBIDDEN"),
        ("/ws/denied?reason=no", 401, None),
    ],
)
def test_handshakes_that_the_application_rejects(service: Service, path: str, status: int, code: str | None) -> None:
    with pytest.raises(InvalidStatus) as caught:
        websocket(service, path)
    response = caught.value.response
    assert response.status_code == status
    body = json.loads(response.body or b"")
    assert code in {None, body["detail"]["code"]}
    trace_id = response.headers["X-Trace-ID"]
    assert body["trace_id"] == trace_id
    eventually(lambda: access_lines(service, trace_id))
    assert [line["status"] for line in access_lines(service, trace_id)] == [status]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HANDSHAKE.replace(b"Version: 13", b"Version: 8"), 400),
        (HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), 400),
        (HANDSHAKE.replace(b"GET", b"POST"), 405),
        (HANDSHAKE + b"Cookie: " + b"a" * 10_000 + b"\r\n", 431),
        (HANDSHAKE + b"X: a\r\n" * 200, 431),
    ],
)
def test_invalid_handshakes(service: Service, head: bytes, status: int) -> None:
    connection = service.connect()
    connection.send(head % b"/ws" + b"\r\n")
    got, headers, body = connection.answer()
    assert (got, headers["connection"]) == (status, "close")
    assert json.loads(body)["detail"]["code"] == "INVALID_INPUT"
    assert len(headers["x-trace-id"]) == 32
    assert connection.closed()


def test_an_upgrade_behind_a_request_that_is_being_answered_is_ignored(service: Service) -> None:
    connection = service.connect()
    connection.send(b"GET /background?seconds=0 HTTP/1.1\r\nHost: x\r\n\r\n" + HANDSHAKE % b"/pid" + b"\r\n")
    assert [connection.answer().status, connection.answer().status] == [200, 200]


def test_an_upgrade_behind_a_response_that_is_not_read_is_ignored(service: Service) -> None:
    connection = service.connect()
    connection.send(b"GET /big HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
    _, headers, _ = connection.head()
    connection.send(b"x" + HANDSHAKE % b"/pid" + b"\r\n")
    eventually(lambda: server_end(connection)[4].endswith(":00000000"))  # the server has read it
    connection.read(int(headers["content-length"]))
    assert connection.answer().status == 200


def test_a_message_over_the_limit_closes_with_1009(service: Service) -> None:
    with websocket(service, "/ws") as client:
        client.send("a" * 100_000)
        assert client.recv(timeout=60) == "a" * 100_000
        client.send("a" * 100_001)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=60)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


def close_code(connection: Connection) -> int:
    """Return the code of the next frame, which must close the WebSocket."""
    opcode, length = connection.read(2)
    assert opcode == 0x88
    return int(struct.unpack("!H", connection.read(length & 0x7F)[:2])[0])


def test_a_message_in_endless_frames_closes_with_1009(service: Service) -> None:
    connection = service.connect()
    connection.send(HANDSHAKE % b"/ws" + b"\r\n")
    assert connection.head().status == 101
    connection.send(frame(1, last=False) + frame(0, last=False) * 2_000)
    assert close_code(connection) == 1009


def test_a_client_that_answers_no_ping_is_closed(start: Start) -> None:
    service = start(app=APP, TEST_PING_SECONDS=0.5)
    connection = service.connect()
    connection.send(HANDSHAKE % b"/ws" + b"X-Trace-ID: no-pong\r\n\r\n")
    assert connection.head().status == 101
    assert connection.read(1) == b"\x89"
    assert connection.read(1 + 4)[:1] == b"\x04"
    assert close_code(connection) == 1011
    connection.close()
    eventually(lambda: access_lines(service, "no-pong"))


def test_the_answer_to_a_ping_may_come_behind_a_large_frame_or_what_the_app_has_not_taken(start: Start) -> None:
    service = start(app=APP, TEST_PING_SECONDS=3, TEST_BODY_BYTES_PER_SECOND=10)
    with service.connect() as slow, service.connect() as deaf:
        for connection, path in ((slow, b"/ws"), (deaf, b"/ws/deaf")):
            connection.send(HANDSHAKE % path + b"\r\n")
            assert connection.head().status == 101
        deaf.send(frame(1, b"not taken") * 2)
        slow.send(bytes([0x81, 0x80 | 126]) + struct.pack("!H", 10_000) + bytes(4))
        for _ in range(100):  # a ping is sent after 3 s, and its answer missed after 6
            slow.send(b"a" * 100)
            time.sleep(0.1)
        assert slow.read(2 + 4)[:2] == b"\x89\x04"
        assert slow.read(4 + 10_000)[4:] == b"a" * 10_000
        assert deaf.read(2 + 4)[:2] == b"\x89\x04"
        deaf.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            deaf.read(1)  # it is neither closed nor told so


def test_a_client_that_reads_a_large_message_slowly_but_steadily_is_not_cut_off(start: Start) -> None:
    service = start(app=APP, MAX_BODY_BYTES=8_000_000, TEST_WRITE_SECONDS=1, TEST_PING_SECONDS=1)
    with socket.socket() as client, client.makefile("rb") as file:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", service.port))
        client.sendall(HANDSHAKE % b"/ws" + b"\r\n")
        while file.readline() != b"\r\n":
            pass
        client.sendall(bytes([0x81, 0xFF]) + struct.pack("!Q", 6_000_000) + bytes(4) + b"a" * 6_000_000)
        while file.read(2) == b"\x89\x04":
            file.read(4)
        assert file.read(8) == struct.pack("!Q", 6_000_000)
        for _ in range(120):  # more than the kernel keeps, and then what it keeps, each for longer than both limits
            assert file.read(50_000) == b"a" * 50_000
            time.sleep(0.05)
        client.sendall(frame(1, b"hi"))
        while (head := file.read(2)) == b"\x89\x04":
            file.read(4)
        assert head + file.read(2) == b"\x81\x02hi"


@pytest.mark.parametrize("path", [b"/ws/flood", b"/ws/deaf"])
def test_a_client_that_does_not_read_is_cut_off(service: Service, path: bytes) -> None:
    connection = service.connect()
    connection.send(HANDSHAKE % path + b"X-Trace-ID: unread-" + path[4:] + b"\r\n\r\n")
    assert connection.head().status == 101
    memory = resident_memory(service)
    sent = flood_with_pings(connection)
    assert sent < 15_000_000, "the server reads more than the kernel's buffers hold"
    assert resident_memory(service) - memory < 50_000_000
    eventually(lambda: access_lines(service, f"unread-{path[4:].decode()}"))


def flood_with_pings(connection: Connection) -> int:
    """Send pings, each of which is answered with as many bytes, until the server cuts the connection."""
    data, sent = frame(9, b"a" * 125) * 10_000, 0
    with contextlib.suppress(OSError):
        while sent < 100_000_000:
            connection.send(data)
            sent += len(data)
    return sent


def resident_memory(service: Service) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in service.workers())
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_an_application_that_does_not_notice_that_its_client_left_is_cancelled(service: Service) -> None:
    with websocket(service, "/ws/deaf", "left-deaf"):
        pass
    eventually(lambda: "deaf ended" in [line["message"] for line in service.lines_of("left-deaf")])
    eventually(lambda: access_lines(service, "left-deaf"))


def test_a_client_that_leaves_before_it_is_accepted_is_no_error(service: Service) -> None:
    with service.connect() as connection:
        assert connection.get("/health/live").status == 200  # a connection that ends before this is not accepted at all
        connection.send(HANDSHAKE % b"/ws/late" + b"X-Trace-ID: left\r\n\r\n")
    eventually(lambda: access_lines(service, "left"))
    assert [(line["level"], line.get("status")) for line in service.lines_of("left")] == [("INFO", 499)]


def test_an_application_that_fails_closes_with_1011_and_logs_it_once(service: Service) -> None:
    with websocket(service, "/ws/broken", "broken") as client, pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=60)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1011
    eventually(lambda: access_lines(service, "broken"))
    errors = [line for line in service.lines_of("broken") if line["level"] == "ERROR"]
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("path", "message", "code"),
    [
        ("/ws", b"\0", 1003),
        ("/ws/json", b"{}", 1003),
        ("/ws/json", "{", 1003),
        ("/ws/json", "[" * 50_000, 1003),
        ("/ws/json", "{}", 1011),  # the handler's own KeyError
    ],
    ids=["bytes for text", "bytes for JSON", "no JSON", "deep JSON", "a defect of the handler"],
)
def test_a_message_of_another_type_than_the_handler_receives_is_no_error_of_the_service(
    service: Service, path: str, message: str | bytes, code: int, request: pytest.FixtureRequest
) -> None:
    trace_id = request.node.callspec.id.replace(" ", "-")
    with websocket(service, path, trace_id) as client:
        client.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=60)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == code
    eventually(lambda: access_lines(service, trace_id))
    errors = [line for line in service.lines_of(trace_id) if line["level"] == "ERROR"]
    assert len(errors) == (code == 1011)


@pytest.mark.parametrize(("status", "code", "reason"), [(404, 1008, "Not Found"), (503, 1011, "Service Unavailable")])
def test_an_error_with_a_status_closes_an_accepted_websocket(
    service: Service, status: int, code: int, reason: str
) -> None:
    with (
        websocket(service, f"/ws/error/{status}", f"error-{status}") as client,
        pytest.raises(ConnectionClosed) as caught,
    ):
        client.recv(timeout=60)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)
    eventually(lambda: access_lines(service, f"error-{status}"))
    [line] = service.lines_of(f"error-{status}")
    assert (line["status"], line["close_code"]) == (101, code)


def test_websockets_beyond_the_limit_are_503(start: Start) -> None:
    service = start(app=APP, MAX_STREAMS=1)
    with websocket(service, "/ws"):
        with pytest.raises(InvalidStatus) as caught:
            websocket(service, "/ws")
        assert caught.value.response.status_code == 503
        assert json.loads(caught.value.response.body or b"")["detail"]["code"] == "OVERLOADED"
        assert service.get("/pid").status == 200
    eventually(lambda: sample(service, "http_streams_open") == 0)
    with websocket(service, "/ws") as client:
        client.send("hello")
        assert client.recv(timeout=60) == "hello"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1001), (signal.SIGHUP, 1012)])
def test_websockets_are_closed_when_the_process_exits(start: Start, number: int, code: int) -> None:
    service = start(app=APP, SHUTDOWN_TIMEOUT=60)
    with websocket(service, "/ws", "closed-late") as plain, websocket(service, "/ws/polite") as polite:
        service.signal(number)
        assert polite.recv(timeout=60) == "goodbye"
        with pytest.raises(ConnectionClosed) as caught:
            plain.recv(timeout=60)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == code
    eventually(lambda: access_lines(service, "closed-late"))
    assert [line["close_code"] for line in access_lines(service, "closed-late")] == [code]
    assert [line for line in service.lines() if line["level"] == "ERROR"] == []


def test_websockets_are_accepted_during_the_drain(start: Start) -> None:
    service = start(app=APP, DRAIN_SECONDS=8, SHUTDOWN_TIMEOUT=60)
    service.signal()
    eventually(lambda: "Shutting down" in service.messages())
    with websocket(service, "/ws") as client:
        client.send("hello")
        assert client.recv(timeout=60) == "hello"
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)
    assert service.wait() == 0
