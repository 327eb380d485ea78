"""Malformed, oversized, slow: answered in our envelope, and bounded."""

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from app.server.protocol.head import MAX_TARGET_BYTES
from tests.server.conftest import Start, launch, server_end
from tests.server.load import Load
from tests.support.http import Connection
from tests.support.service import Service, eventually

HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = launch(tmp_path_factory.mktemp("service"), TEST_LINGER_SECONDS=30)
    yield running.wait_until_alive()
    assert running.stop() == 0
    running.assert_only_json()


@pytest.fixture
def connection(service: Service) -> Iterator[Connection]:
    with service.connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service that soon loses patience with its clients."""
    running = launch(
        tmp_path_factory.mktemp("hasty"),
        GUNICORN_CMD_ARGS="--keep-alive 3",
        TEST_HEAD_SECONDS=1.5,
        TEST_BODY_SECONDS=1,
        TEST_LINGER_SECONDS=1,
        TEST_WRITE_SECONDS=1,
    )
    yield running.wait_until_alive()
    assert running.stop() == 0
    running.assert_only_json()


def assert_refused(connection: Connection, status: int) -> str:
    got, headers, body = connection.answer()
    answer = json.loads(body)
    assert got == status
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert len(headers["x-trace-id"]) == 32
    assert answer["trace_id"] == headers["x-trace-id"]
    assert answer["detail"]["code"] == "INVALID_INPUT"
    assert connection.closed()
    return str(answer["trace_id"])


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        HEAD + b"Content-Length: 2\r\n" + CHUNKED + b"\r\n2\r\nhi\r\n0\r\n\r\n",
        HEAD + CHUNKED + b"Content-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        HEAD + CHUNKED + b"\r\nzz\r\n",
        HEAD + CHUNKED + b"\r\n2\r\nhixx\r\n",
    ],
)
def test_malformed_requests_are_400_in_the_envelope(service: Service, connection: Connection, data: bytes) -> None:
    connection.send(data)
    trace_id = assert_refused(connection, 400)
    [record] = eventually(lambda: service.lines_of(trace_id))
    assert (record["level"], record["trace_id"]) == ("INFO", trace_id)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 5_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000,
        HEAD + CHUNKED + b"\r\n0\r\n" + b"X: a\r\n" * 5_000,
    ],
)
def test_oversized_heads_are_431(connection: Connection, data: bytes) -> None:
    connection.send(data)
    assert_refused(connection, 431)


@pytest.mark.parametrize("rest", [b" HTTP/1.1\r\nHost: x\r\n\r\n", b"a" * 40_000])
def test_oversized_targets_are_414(connection: Connection, rest: bytes) -> None:
    connection.send(b"GET /" + b"a" * MAX_TARGET_BYTES + rest)
    assert_refused(connection, 414)


def test_large_but_allowed_heads_pass(connection: Connection) -> None:
    connection.send(b"GET /pid?" + b"a" * (MAX_TARGET_BYTES - 5) + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.answer()[0] == 200
    connection.send(b"GET /pid HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 31_000 + b"\r\n\r\n")
    assert connection.answer()[0] == 200
    connection.send(b"GET /pid HTTP/1.0\r\n" + b"X: a\r\n" * 100 + b"\r\n")
    assert connection.answer()[0] == 200


def test_garbage_behind_a_request_waits_for_its_answer(connection: Connection) -> None:
    connection.send(b"GET /sleep/0.3 HTTP/1.1\r\nHost: x\r\n\r\n\x00garbage\r\n\r\n")
    status, headers, _ = connection.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert connection.closed()


def test_idle_connections_keep_nothing_of_their_last_request(service: Service) -> None:
    connections = [service.connect() for _ in range(20)]
    for connection in connections:
        assert connection.get("/sleep/0").status == 200

    assert service.get("/pid").json["scopes"] < 10


def test_what_comes_behind_the_last_response_is_not_begun(service: Service, connection: Connection) -> None:
    connection.send(b"GET /sleep/0/last HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD + b"Content-Length: 9\r\n\r\nhalf")

    assert connection.answer().headers["connection"] == "close"
    assert connection.closed()
    assert service.get("/pid").json["busy"] == 0


@pytest.mark.parametrize("rest", [b"\r\n", b"Content-Length: 1\r\n\r\nx"], ids=["no body", "body"])
def test_pipelined_requests_are_rejected_a_few_at_a_time(service: Service, connection: Connection, rest: bytes) -> None:
    number = 100
    connection.send((b"GET /rejected HTTP/1.1\r\nHost: x\r\n" + rest) * number)

    assert [connection.answer().status for _ in range(number)] == [503] * number
    assert service.get("/pid").json["rejected_at_once"] < number // 4


def test_a_request_that_the_app_rejects_pauses_its_connection_when_its_body_is_complete(connection: Connection) -> None:
    head = b"POST /early/rejected HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    connection.send(head)
    started = time.monotonic()
    for _ in range(10):
        assert connection.answer().status == 413
        connection.send(b"x" + head)
    assert connection.answer().status == 413
    assert time.monotonic() - started > 0.5  # ten pauses, up to the next of ten ticks a second


def test_pipelined_requests_that_the_app_rejects_pause_their_connection_each(connection: Connection) -> None:
    started = time.monotonic()
    connection.send(b"POST /early/rejected HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" * 11)
    assert [connection.answer().status for _ in range(11)] == [413] * 11
    assert time.monotonic() - started > 0.5  # as above


def test_an_upgrade_is_no_early_retry_once_the_pause_is_over(service: Service, connection: Connection) -> None:
    connection.send(b"POST /early/rejected HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    assert connection.answer().status == 413
    eventually(lambda: service.get("/pid").json["paused"] == 0)

    connection.send(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert connection.answer().json["early_retry"] is False


def test_pipelined_requests_are_answered_in_order(connection: Connection) -> None:
    connection.send(b"GET /sleep/0.2 HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\nhi")
    assert connection.answer()[2] == b"slept"
    assert connection.answer()[2] == b"hi"


@pytest.mark.parametrize("length", [b"Content-Length: 2\r\n\r\nhi", CHUNKED + b"\r\n2\r\nhi\r\n0\r\n\r\n"])
def test_an_offered_upgrade_is_ignored_and_the_body_kept(connection: Connection, length: bytes) -> None:
    connection.send(HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n" + length)
    assert connection.answer()[2] == b"hi"
    assert connection.get("/pid")[0] == 200


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_an_offered_upgrade_changes_nothing_else(connection: Connection, version: bytes) -> None:
    head = HEAD.replace(b"HTTP/1.1", version)
    connection.send(head + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi")
    _, headers, body = connection.answer()
    assert (headers["connection"], body) == ("close", b"hi")


def test_a_websocket_is_not_offered_in_http_1_0(connection: Connection) -> None:
    connection.send(b"GET /pid HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert connection.answer()[0] == 200
    assert connection.closed()


def drip(connections: list[Connection], data: bytes) -> None:
    """Send to those that the server has not closed yet."""
    for connection in connections:
        with contextlib.suppress(ConnectionError):
            connection.send(data)


def test_slow_heads_are_closed_and_harm_nobody(hasty: Service) -> None:
    slow = [hasty.connect() for _ in range(300)]
    drip(slow, b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
    load = Load(hasty, keep_alive=False)
    for _ in range(4):
        time.sleep(0.2)
        drip(slow[1:], b"a")
    assert_refused(slow[0], 408)
    for connection in slow[1:]:
        with contextlib.suppress(ConnectionError):
            while connection.socket.recv(65536):
                pass
    assert load.stop().keys() == {"200"}


@pytest.mark.parametrize("head", [b"Content-Length: 900\r\n\r\n", CHUNKED + b"\r\n"])
def test_slow_bodies_are_408(hasty: Service, head: bytes) -> None:
    connection = hasty.connect()
    connection.send(HEAD + head)
    for _ in range(3):
        time.sleep(0.2)
        drip([connection], b"1\r\na\r\n")
    assert_refused(connection, 408)


def test_a_body_that_is_not_wanted_any_more_is_read(connection: Connection) -> None:
    connection.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
    assert connection.answer()[0] == 413
    connection.send(b"a" * 2_000_000)
    assert connection.get("/pid")[0] == 200


def test_a_body_that_is_not_wanted_any_more_is_waited_for_a_while(hasty: Service) -> None:
    connection = hasty.connect()
    connection.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
    assert connection.answer()[0] == 413
    assert connection.closed()


def send_slowly(connection: Connection, size: int) -> None:
    for _ in range(size):
        connection.send(b"a")
        time.sleep(0.1)


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["keep-alive", "close"])
@pytest.mark.slow
def test_an_upload_that_is_answered_early_is_not_cut_while_it_goes_on(start: Start, last: bytes) -> None:
    connection = start(TEST_LINGER_SECONDS=4).connect()
    connection.send(b"POST /early HTTP/1.1\r\nHost: x\r\n" + last + b"Content-Length: 1000000\r\n\r\n")
    for _ in range(100):
        connection.send(b"a" * 10_000)
        time.sleep(0.08)
    assert connection.answer()[0] == 413


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["keep-alive", "close"])
def test_an_upload_that_is_answered_early_is_cut_if_it_is_slow(hasty: Service, last: bytes) -> None:
    connection = hasty.connect()
    connection.send(b"POST /early HTTP/1.1\r\nHost: x\r\n" + last + b"Content-Length: 1000000\r\n\r\n")
    with pytest.raises(ConnectionError):
        send_slowly(connection, 200)


@pytest.mark.parametrize(("line", "status"), [(b"POST /early", 413), (b"DELETE /rejected", 503)])
def test_a_client_that_sends_first_and_reads_then_sees_the_last_answer_too(
    connection: Connection, line: bytes, status: int
) -> None:
    connection.send(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(30):
        connection.send(b"a" * 100_000)
        time.sleep(0.01)
    assert connection.answer()[0] == status
    assert connection.closed()


def is_open(connection: Connection) -> bool:
    """Tell whether the server has its end of the connection open, as the kernel sees it."""
    return server_end(connection)[3] == "01"


def test_a_client_that_does_not_read_is_cut(hasty: Service) -> None:
    connection = hasty.connect()
    connection.ask("/big")
    assert connection.read(1) == b"H"
    assert is_open(connection)
    eventually(lambda: not is_open(connection))
    with contextlib.suppress(ConnectionError):
        assert len(connection.rest()) < 50_000_000
    assert hasty.get("/pid")[0] == 200


def read_slowly(connection: Connection, seconds: float) -> int:
    """Read the rest of `/big`, in parts, for at least so long; return its length."""
    length, part = len(connection.read(1)), 2_000_000
    while data := connection.read(part):
        length += len(data)
        time.sleep(seconds * part / 50_000_000)
    return length


def test_a_client_that_reads_steadily_is_not_idle(start: Start) -> None:
    connection = start(GUNICORN_CMD_ARGS="--keep-alive 1").connect()
    connection.ask("/big")
    connection.head()
    assert read_slowly(connection, 5) == 50_000_000


def test_a_client_that_reads_steadily_gets_the_whole_response_when_the_process_exits(start: Start) -> None:
    service = start(SHUTDOWN_TIMEOUT=120)
    connection = service.connect()
    connection.ask("/big")
    connection.head()
    service.signal()
    eventually(lambda: "Shutting down" in service.messages())
    assert read_slowly(connection, 5) == 50_000_000
    assert service.wait() == 0


@pytest.mark.parametrize("first", [b"", b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_idle_connections_are_closed_in_time(hasty: Service, first: bytes) -> None:
    started = time.monotonic()
    connection = hasty.connect()
    connection.send(first)
    if first:
        assert connection.answer()[0] == 200
    assert connection.closed()
    assert time.monotonic() - started > 2
