"""Requests that stay: behind responses that are not read, in downloads, or with bodies that have been processed."""

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hostile.ordinary import memory_of
from tests.hostile.test_responses import deaf
from tests.server.conftest import launch, sample
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

IN_FLIGHT = 256  # requests
LARGE = 1_000_000  # bytes of a body
# Together with 4 KiB for each, a little less than the 16 MiB that all of a worker may have.
SIZES = [LARGE] * 17 + [100_000] * 8 + [20_000] * 5 + [3_000] * 5
NEXT = b"DELETE /deleted/next HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = launch(tmp_path, app="tests.server.stream_app:app").wait_until_alive()
    yield running
    assert running.stop() == 0


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def post(path: str, size: int, fields: str = "") -> bytes:
    body = json.dumps("a" * size).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{fields}"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def check_that_others_are_served(service: Service) -> None:
    for _ in range(3):
        assert service.get("/deleted").status == 200
        assert service.client.post("/body", json="ordinary").status_code == 200


@pytest.mark.parametrize("behind", ["in one packet", "later", "with the end of a body"])
def test_a_request_behind_a_response_that_is_not_read_is_not_begun(
    service: Service, stack: contextlib.ExitStack, behind: str
) -> None:
    first, then = get("/big?size=180000"), NEXT
    if behind == "in one packet":
        first, then = first + NEXT, b""
    elif behind == "with the end of a body":
        first, then = first.replace(b"Host", b"Content-Length: 1\r\nHost"), b"x" + NEXT
    clients = [deaf(stack, service.port, first) for _ in range(IN_FLIGHT + 40)]
    for client in clients:
        client.sendall(then)
    check_that_others_are_served(service)
    assert service.get("/deleted").json == []

    read = b""
    while not read.endswith(b'{"deleted":"next"}'):
        read += clients[-1].recv(100_000)
    assert read.count(b"HTTP/1.1 200 OK") == 1  # `deaf` has read the first byte


def test_a_download_is_not_in_flight(service: Service, stack: contextlib.ExitStack) -> None:
    for _ in range(IN_FLIGHT + 20):
        deaf(stack, service.port, get("/docs/assets/swagger-ui-bundle.js"))
    check_that_others_are_served(service)
    assert sample(service, "http_streams_open") > IN_FLIGHT


def test_the_body_of_a_request_that_has_ended_does_not_count(service: Service, stack: contextlib.ExitStack) -> None:
    for size in SIZES:
        deaf(stack, service.port, post("/body?size=200000", size, "Connection: close\r\n"))
    check_that_others_are_served(service)


@pytest.mark.parametrize(("sizes", "stay"), [([*SIZES, LARGE], 1), ([50_000] * 400, 400)], ids=["large", "small"])
def test_bodies_of_open_streams_do_not_keep_others_out(
    service: Service, stack: contextlib.ExitStack, sizes: list[int], stay: int
) -> None:
    for size in sizes:
        client = stack.enter_context(service.connect())
        client.send(post("/chat", size))
        assert client.head().status == 200
    check_that_others_are_served(service)
    assert sample(service, "http_streams_open") >= stay


def fill_bodies(service: Service, stack: contextlib.ExitStack) -> None:
    """Have bodies of 16 MiB in requests that run for long, so that the next body is rejected."""

    def is_full() -> bool:
        for size in (LARGE, 100_000, 20_000, 3_000, 1):
            stack.enter_context(service.connect()).send(post("/body?seconds=60", size))
        return service.client.post("/body", json="ordinary").status_code == 503

    eventually(is_full)


def test_a_request_that_is_rejected_for_its_body_is_not_done(service: Service, stack: contextlib.ExitStack) -> None:
    fill_bodies(service, stack)
    for _ in range(3):
        connection = stack.enter_context(service.connect())
        connection.send(b"DELETE /deleted/rejected HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert connection.answer().status == 503
    assert service.get("/deleted").json == []


@pytest.mark.parametrize("cause", ["memory", "malformed"])
def test_a_request_that_runs_without_its_body_is_answered(
    service: Service, stack: contextlib.ExitStack, cause: str
) -> None:
    connection = stack.enter_context(service.connect())
    connection.send(b"DELETE /deleted/running?seconds=2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    eventually(lambda: service.get("/deleted").json == ["running"])
    if cause == "memory":
        fill_bodies(service, stack)
    connection.send(b"2\r\n{}\r\n" if cause == "memory" else b"no size\r\n")

    answer = connection.answer()
    assert (answer.status, answer.json) == (200, {"deleted": "running"})
    assert connection.closed()


def test_the_connection_of_a_rejected_upload_ends_when_its_client_leaves(
    service: Service, stack: contextlib.ExitStack
) -> None:
    [worker] = service.wait_for_workers(1)
    descriptors = Path(f"/proc/{worker}/fd")
    before = len(list(descriptors.iterdir()))
    head = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    head += b'Content-Length: 1000000\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    clients = [stack.enter_context(service.connect()) for _ in range(100)]
    with ThreadPoolExecutor(len(clients)) as threads:  # so that forms wait for their turn to be parsed
        list(threads.map(lambda client: client.send(head + b"a" * 600_000), clients))
    eventually(lambda: sum(line["message"] == "The service is overloaded, retry later" for line in service.lines()) > 5)
    for client in clients:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.close()
    eventually(lambda: len(list(descriptors.iterdir())) < before + 10)


def test_large_events_that_nobody_reads_are_limited_together(service: Service, stack: contextlib.ExitStack) -> None:
    [worker] = service.wait_for_workers(1)
    before = most = memory_of(worker)
    for _ in range(200):
        with contextlib.suppress(ConnectionError):
            deaf(stack, service.port, get("/events?pause=0&size=200000"))
        most = max(most, memory_of(worker))
    check_that_others_are_served(service)
    assert max(most, memory_of(worker)) - before < 150
