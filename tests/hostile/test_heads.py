"""Heads that are made to cost time, and connections that end before they are accepted."""

import contextlib
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.hostile.ordinary import in_parallel, memory_of, ordinary_beside
from tests.support.http import Connection
from tests.support.service import Service

pytestmark = pytest.mark.slow

# SO_LINGER: closing sends FIN, or RST.
LEAVING = pytest.mark.parametrize("leaving", [(0, 0), (1, 0)], ids=["closed", "reset"])
CHEAP = b"GET /nothing HTTP/1.1\r\nHost: x\r\n"
EXPENSIVE = {
    "many parameters": b"GET /things?" + b"a&" * 4_000 + b" HTTP/1.1\r\nHost: x\r\n",
    "a long query": b"GET /things?" + b"a=1&" * 7_000 + b" HTTP/1.1\r\nHost: x\r\n",
    "a long path": b"GET /" + b"%C3%A9" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n",
    "many tags": b"GET /things/1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: " + b'"",' * 10_000 + b"\r\n",
    "many media types": CHEAP + b"Accept: application/problem+json," + b"a/b;q=1," * 3_900 + b"\r\n",
    "many cookies": CHEAP + b"Cookie: " + b"a=b;" * 8_000 + b"\r\n",
    "a long token": CHEAP + b"Authorization: Bearer " + b"a" * 32_000 + b"\r\n",
    "many fields": CHEAP + b"".join(b"x%d: %s\r\n" % (number, b"v" * 300) for number in range(90)),
}


def cpu_time(service: Service) -> float:
    """Read the milliseconds that the workers' main threads have run."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in service.workers()) / 1e6


def cost(service: Service, head: bytes, number: int = 100) -> float:
    """Measure the milliseconds of CPU time that a request takes."""
    before = cpu_time(service)
    for _ in range(number):
        with Connection(service.port) as connection:
            connection.send(head + b"\r\n")
            connection.answer()
    return (cpu_time(service) - before) / number


def send_and_leave(service: Service, data: bytes, leaving: tuple[int, int]) -> None:
    with Connection(service.port) as connection:
        connection.send(data)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", *leaving))


@pytest.mark.parametrize("name", EXPENSIVE)
def test_no_head_costs_five_times_as_much_as_a_short_one(service: Service, name: str) -> None:
    cost(service, EXPENSIVE[name], 10)
    costs = [(cost(service, EXPENSIVE[name]), cost(service, CHEAP)) for _ in range(3)]

    assert min(dear / cheap for dear, cheap in costs) < 5, costs


def test_heads_that_never_end_are_limited_together(start_service: StartService) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    [worker] = service.wait_for_workers(1)
    before = memory_of(worker)
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(service.connect()) for _ in range(800)]
        for attacker in attackers:
            attacker.send(EXPENSIVE["many fields"])
        assert service.get("/health/live").status == 200
        assert memory_of(worker) - before < 30
        assert attackers[0].answer().status == 503


@LEAVING
def test_a_connection_that_ended_before_it_is_accepted_costs_nothing(
    service: Service, leaving: tuple[int, int]
) -> None:
    left, stayed = f"left-{leaving[0]}-", f"stayed-{leaving[0]}"
    for worker in service.workers():
        os.kill(worker, signal.SIGSTOP)
    try:
        for number in range(100):
            send_and_leave(service, CHEAP + f"X-Trace-ID: {left}{number}\r\n\r\n".encode(), leaving)
        with Connection(service.port) as connection:
            connection.send(CHEAP + f"X-Trace-ID: {stayed}\r\n\r\n".encode())
            for worker in service.workers():
                os.kill(worker, signal.SIGCONT)
            assert connection.answer().status == 404
    finally:
        for worker in service.workers():
            os.kill(worker, signal.SIGCONT)
    service.logged(stayed)  # which both workers' lines about the others would precede, but for a race

    assert [line for line in service.lines() if line.get("trace_id", "").startswith(left)] == []


@LEAVING
def test_connections_that_end_at_once_hold_up_nothing(service: Service, leaving: tuple[int, int]) -> None:
    def attack() -> None:
        for _ in range(2_000):
            send_and_leave(service, EXPENSIVE["a long path"] + b"\r\n", leaving)

    with ordinary_beside(service):
        in_parallel(4, attack)
