"""Connections that send too much, too slowly, or what two readers understand differently."""

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import StartService
from tests.hostile.ordinary import cpu_of, in_parallel, memory_of, ordinary_beside
from tests.support.http import JSON, Connection, parse, send
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

GET = b"GET /things/999 HTTP/1.1\r\nHost: x\r\n\r\n"
THING = b'{"name":"Lamp","price":1}'


@contextlib.contextmanager
def connections(port: int, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(number)]


def test_pipelined_requests_take_little_memory(service: Service) -> None:
    requests = GET * 8_000
    with ordinary_beside(service, growth=64), connections(service.port, 4) as attackers:
        for attacker in attackers:
            attacker.setblocking(False)  # noqa: FBT003
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            for attacker in attackers:
                with contextlib.suppress(BlockingIOError):
                    attacker.send(requests)
                with contextlib.suppress(BlockingIOError):
                    attacker.recv(1 << 16)
            time.sleep(0.01)


def send_pipelined(attackers: list[socket.socket], size: int) -> None:
    request = b"GET /a HTTP/1.1\r\nHost:x\r\n\r\n"
    for attacker in attackers:
        attacker.setblocking(False)  # noqa: FBT003
        with contextlib.suppress(BlockingIOError):
            attacker.send(request * (size // len(request)))


def test_many_pipelining_connections_take_little_memory(service: Service) -> None:
    with ordinary_beside(service, growth=32), connections(service.port, 400) as attackers:
        send_pipelined(attackers, 8_000)
        time.sleep(5)


def test_pipelined_input_is_limited_together(start_service: StartService) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    [worker] = service.wait_for_workers(1)
    with connections(service.port, 450) as attackers:
        os.kill(worker, signal.SIGSTOP)
        send_pipelined(attackers, 400_000)  # the kernel takes 64 KiB of each, and more
        os.kill(worker, signal.SIGCONT)
        eventually(lambda: any(attacker.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for attacker in attackers))
        assert service.get("/health/live").status == 200
    assert service.workers() == [worker]


@pytest.mark.parametrize("head", [b"", b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % 10**12])
def test_what_is_only_discarded_is_read_in_turn(start_service: StartService, head: bytes) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    [worker] = service.wait_for_workers(1)
    enough = threading.Event()

    def attack() -> None:
        while not enough.is_set():
            with contextlib.suppress(OSError), Connection(service.port, 5) as attacker:
                attacker.send(head)
                while not enough.is_set():
                    attacker.socket.send(b"\r\n" * 500_000)

    attackers = [threading.Thread(target=attack) for _ in range(16)]
    for attacker in attackers:
        attacker.start()
    time.sleep(1)
    before = cpu_of(worker)
    try:
        assert service.get("/health/live").status == 200
        used = cpu_of(worker) - before
    finally:
        enough.set()
        for attacker in attackers:
            attacker.join()
    assert used < 0.5, "seconds of the event loop before one more request was answered"


def test_bodies_that_nobody_reads_are_not_kept_by_idle_connections(start_service: StartService) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    [worker] = service.wait_for_workers(1)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(service.connect()) for _ in range(500)]
        for size in (10, 100_000):
            before = memory_of(worker)
            for connection in idle:
                connection.send(b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
                assert connection.answer().status == 404
        assert memory_of(worker) - before < 16


def test_uploads_that_were_answered_early_are_not_cut_however_many_there_are(start_service: StartService) -> None:
    service = start_service(app="tests.server.stream_app:app", WEB_CONCURRENCY="1", TEST_LINGER_SECONDS="600")
    [worker] = service.wait_for_workers(1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(450)]
        for client in clients:
            client.send(b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 64000\r\n\r\n")
            assert client.answer().status == 404
        os.kill(worker, signal.SIGSTOP)
        for client in clients:
            client.send(bytes(64_000) + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        os.kill(worker, signal.SIGCONT)
        for client in clients:
            assert client.answer().status == 200


def test_pipelined_requests_are_all_answered_in_order(service: Service) -> None:
    number = 1_000
    requests = b"".join(
        b"GET /things/%d HTTP/1.1\r\nHost: x\r\nX-Trace-ID: p-%d\r\n\r\n" % (10**9, n) for n in range(number)
    )
    raw = service.raw(requests + b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    ids = [line.split(b": ")[1] for line in raw.split(b"\r\n") if line.lower().startswith(b"x-trace-id: p-")]
    assert ids == [b"p-%d" % n for n in range(number)]
    assert raw.endswith(b'{"status":"alive"}')


def test_pipelined_bodies_arrive_whole(service: Service) -> None:
    post = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    large = json.dumps({"name": "Lamp", "price": 1, "description": "d" * 9_900}).encode()
    requests = (post % len(large) + b"\r\n" + large) * 40
    raw = service.raw(requests + post % len(THING) + b"Connection: close\r\n\r\n" + THING)

    assert raw.count(b"HTTP/1.1 201 ") == 41


def test_offers_to_upgrade_are_ignored_however_many(service: Service) -> None:
    offer = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    raw = service.raw(offer * 1_500 + b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert raw.count(b"HTTP/1.1 200 ") == 1_501


@pytest.mark.parametrize("apart", [0.0, 0.3])
def test_trailers_are_no_header_fields(service: Service, apart: float) -> None:
    head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(THING), THING)
    trailers = b"X-Trace-ID: trailed\r\nIdempotency-Key: k\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
    for _ in range(2):  # the same key would be a replay
        with Connection(service.port) as connection:
            if apart:
                connection.send(head)
                time.sleep(apart)
                connection.send(chunk + trailers)
            else:
                connection.send(head + chunk + trailers)
            answer = connection.answer()
        assert answer.status == 201
        assert answer.headers["x-trace-id"] != "trailed"
        assert "idempotent-replayed" not in answer.headers
        assert service.logged(answer.headers["x-trace-id"])[-1]["client"] == "127.0.0.1"


@pytest.mark.parametrize("noise", [b"1;%s\r\nx\r\n" % (b"e" * 60_000), b"0\r\nX: %s\r\n" % (b"t" * 60_000)])
def test_what_is_around_a_chunked_body_has_a_limit(service: Service, noise: bytes) -> None:
    head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

    assert parse(service.raw(head + noise)).status in {400, 431}


def test_very_small_chunks_hold_up_nothing_else(service: Service) -> None:
    head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"1\r\n \r\n" * 400_000, b"8\r\n        \r\n" * 100_000]

    def attack() -> None:
        for chunk in chunks * 3:
            with contextlib.suppress(OSError), Connection(service.port, 60) as attacker:
                attacker.socket.sendall(head + chunk)  # it is reset when the server has seen enough
                attacker.rest()

    with ordinary_beside(service, growth=48):
        in_parallel(16, attack)


def test_a_body_in_very_many_chunks_is_refused(service: Service) -> None:
    head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = parse(service.raw(head + b"1\r\n \r\n" * 6_000))

    assert (answer.status, answer.json["detail"]["message"]) == (400, "The body has too many small chunks")


def test_a_body_in_a_few_thousand_very_small_chunks_is_taken(service: Service) -> None:
    head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in THING.rjust(3_000))

    assert parse(service.raw(head + b"Connection: close\r\n\r\n" + body + b"0\r\n\r\n")).status == 201


def test_bodies_that_never_end_are_limited_together(service: Service) -> None:
    head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    with ordinary_beside(service, growth=72), connections(service.port, 150) as attackers:
        for attacker in attackers:
            with contextlib.suppress(OSError):
                attacker.sendall(head + b" " * 900_000)
        # Beside them an ordinary body is received.
        answer = send(service.port, "POST", "/things", JSON, body=THING)
        assert answer.status == 201


def test_a_slow_but_steady_reader_gets_its_whole_answer(start_service: StartService) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    batch = {"items": [{"name": f"Lamp{n}", "price": 1, "description": "d" * 9_000} for n in range(100)]}
    assert service.client.post("/things/batch", json=batch).status_code == 201
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", service.port))
        reader.settimeout(60)
        ask = b"GET /things?limit=100 HTTP/1.1\r\nHost: x\r\n\r\n"
        reader.sendall(ask * 6 + ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        size, started = 0, time.monotonic()
        while data := reader.recv(65536):
            size += len(data)
            if time.monotonic() - started < 40:
                time.sleep(0.1)
        assert time.monotonic() - started > 35
    assert size > 6_000_000


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health/live HTTP/2.0\r\nHost: x\r\n", 505),
        (b"POST /things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        (b"POST /things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n", 400),
        (b"GET http://a@b/health/live HTTP/1.1\r\nHost: x\r\n", 400),
        (b"GET /%6detrics HTTP/1.1\r\nHost: x\r\n", 404),
        (b"GET /health%2Flive HTTP/1.1\r\nHost: x\r\n", 404),
        (b"GET //metrics HTTP/1.1\r\nHost: x\r\n", 404),
        (b"GET /./metrics HTTP/1.1\r\nHost: x\r\n", 404),
    ],
)
def test_what_a_proxy_may_read_differently_is_refused(service: Service, head: bytes, status: int) -> None:
    assert parse(service.raw(head + b"Connection: close\r\n\r\n")).status == status


def test_a_request_behind_another_is_refused_as_well(service: Service) -> None:
    raw = service.raw(GET + b"GET /%6detrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    *_, first, second = raw.split(b"HTTP/1.1 ")
    assert (first[:3] in (b"200", b"404"), second[:3]) == (True, b"404")


def test_the_host_of_an_absolute_target_wins(start_service: StartService) -> None:
    service = start_service(TRUSTED_HOSTS="good.example", WEB_CONCURRENCY="1")
    for target, host, status in (("good.example", "evil.example", 200), ("evil.example", "good.example", 400)):
        answer = send(service.port, "GET", f"http://{target}/things", ("Host", host), host=False)
        assert answer.status == status


@pytest.mark.parametrize(
    "begun", [b"", b"GET /things HTTP/1.1\r\n", b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"]
)
def test_new_connections_are_served_while_descriptors_are_short(start_service: StartService, begun: bytes) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    [worker] = service.wait_for_workers(1)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (64, 64))
    with connections(service.port, 600) as attackers:
        for attacker in attackers:
            with contextlib.suppress(ConnectionError):  # it was closed already
                attacker.send(begun)
        with Connection(service.port, 30) as last:  # a second for eight would be too slow
            assert last.get("/health/live").status == 200


def test_a_steady_upload_is_not_closed_while_descriptors_are_short(start_service: StartService) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    [worker] = service.wait_for_workers(1)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (300, 300))
    with service.connect() as steady, connections(service.port, 200):
        steady.send(b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n")
        for _ in range(2):  # those before it are accepted, and what was sent before it is received
            with service.connect() as ordinary:
                assert ordinary.get("/health/live").status == 200
            steady.send(b" ")
        with connections(service.port, 150), Connection(service.port, 30) as last:
            assert last.get("/health/live").status == 200
            steady.send(THING.rjust(97))
            assert steady.answer().status == 201


def test_a_steady_reader_is_not_closed_while_descriptors_are_short(start_service: StartService) -> None:
    service = start_service(app="tests.server.stream_app:app", WEB_CONCURRENCY="1")
    [worker] = service.wait_for_workers(1)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (300, 300))
    with socket.socket() as steady, steady.makefile("rb") as file:
        steady.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        steady.connect(("127.0.0.1", service.port))
        steady.sendall(b"GET /big?size=20000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        read = len(file.read(50_000))
        with connections(service.port, 200):
            for _ in range(60):
                read += len(file.read(50_000))
                time.sleep(0.05)
            with connections(service.port, 150), Connection(service.port, 30) as last:
                assert last.get("/health/live").status == 200
                read += len(file.read())
    assert read > 20_000_000
