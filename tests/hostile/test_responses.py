"""Clients that ask for much, and do not read it."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.hostile.ordinary import memory_of
from tests.server.conftest import launch
from tests.support.http import Connection
from tests.support.service import eventually

pytestmark = pytest.mark.slow

BIG = 20_000_000  # bytes of `/big`
CUT = "The responses that clients have not read take too much memory"


def deaf(stack: contextlib.ExitStack, port: int, request: bytes) -> socket.socket:
    """Send a request, and do not read its answer, of which the kernels keep some 50 KB."""
    attacker = stack.enter_context(socket.socket())
    attacker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    attacker.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    attacker.connect(("127.0.0.1", port))
    attacker.sendall(request)
    assert attacker.recv(1) == b"H"  # it is written, in part to the kernel
    return attacker


@pytest.mark.parametrize("small", [0, 40])
def test_responses_that_nobody_reads_are_limited_together(tmp_path: Path, small: int) -> None:
    service = launch(tmp_path, app="tests.server.stream_app:app").wait_until_alive()
    [worker] = service.wait_for_workers(1)
    before = memory_of(worker)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(small):
                deaf(stack, service.port, b"GET /big?size=200000 HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(12):
                deaf(stack, service.port, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            eventually(lambda: service.messages().count(CUT) >= 8)
            grown = memory_of(worker) - before
            with Connection(service.port) as reader:
                assert len(reader.get("/big").body) == BIG
    finally:
        service.stop()
    assert grown < 64 + 4 * BIG // 2**20  # and what is made before it is counted


def test_many_small_responses_that_nobody_reads_are_limited_together(tmp_path: Path) -> None:
    service = launch(tmp_path, app="tests.server.stream_app:app").wait_until_alive()
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(600):
                deaf(stack, service.port, b"GET /big?size=250000 HTTP/1.1\r\nHost: x\r\n\r\n")
            eventually(lambda: CUT in service.messages())
    finally:
        service.stop()


def test_a_steady_reader_is_not_cut_for_those_that_do_not_read(tmp_path: Path) -> None:
    service = launch(tmp_path, app="tests.server.stream_app:app").wait_until_alive()
    try:
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(Connection(service.port))
            assert reader.stream("/big").status == 200
            read = 0
            for _ in range(12):
                deaf(stack, service.port, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
                read += len(reader.read(512 * 1024))
            eventually(lambda: service.messages().count(CUT) >= 8)
            assert read + len(reader.read(BIG - read)) == BIG
    finally:
        service.stop()
