"""SIGTERM: drain, finish, leave."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.server.conftest import Start, wait_for_busy
from tests.server.load import Load
from tests.support.http import Connection
from tests.support.service import Service, eventually


def wait_for_the_drain(service: Service) -> None:
    """Wait until a worker says that it is not ready any more."""
    eventually(lambda: service.get("/ready").status == 503, pause=0.01)


def quit_at_once(service: Service) -> None:
    """Do not wait for the end of the drain, which is long so that no machine is too slow for it."""
    os.killpg(service.pid, signal.SIGQUIT)
    assert service.wait() == 0


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Name the file for which requests for `/hold` wait."""
    return tmp_path / "release"


def test_no_request_fails_during_the_drain(start: Start) -> None:
    service = start(WEB_CONCURRENCY=2, DRAIN_SECONDS=60)
    loads = [Load(service), Load(service, keep_alive=False), Load(service, path="/sleep/0.1")]
    for load in loads:
        load.wait_for(5)
    service.signal()
    wait_for_the_drain(service)
    service.signal()  # once more changes nothing
    for load in loads:
        load.wait_for(10)
    for load in loads:
        assert load.stop().keys() == {"200"}
    quit_at_once(service)


def test_readiness_turns_at_once_and_answers_say_close(start: Start, release: Path) -> None:
    service = start(DRAIN_SECONDS=60, TEST_RELEASE_FILE=release)
    idle = service.connect()
    assert idle.get("/ready")[0] == 200
    busy = service.connect()
    busy.ask("/hold")
    wait_for_busy(service)
    service.signal()
    wait_for_the_drain(service)
    status, headers, _ = idle.get("/pid")
    assert (status, headers["connection"]) == (200, "close")
    release.touch()
    assert busy.answer()[1]["connection"] == "close"
    quit_at_once(service)


def test_it_leaves_right_after_the_drain(start: Start) -> None:
    service = start(DRAIN_SECONDS=1, SHUTDOWN_TIMEOUT=600)
    idle = service.connect()
    idle.get("/pid")
    started = time.monotonic()
    service.signal()
    assert service.wait() == 0  # long before SHUTDOWN_TIMEOUT
    assert time.monotonic() - started >= 1
    assert "was sent SIGTERM" not in "".join(service.messages())


def test_requests_in_flight_finish_and_late_ones_get_503(start: Start, release: Path) -> None:
    service = start(SHUTDOWN_TIMEOUT=5, TEST_RELEASE_FILE=release)
    finishing, late, stuck, streaming = (service.connect() for _ in range(4))
    finishing.ask("/hold")
    late.send(b"GET /sleep/60 HTTP/1.1\r\nHost: x\r\nX-Trace-ID: abc\r\n\r\n")
    stuck.ask("/block/60")
    streaming.ask("/stream")
    wait_for_busy(service, 4)
    service.signal()
    eventually(lambda: "Handling signal: term" in service.messages(), pause=0.01)
    release.touch()
    assert finishing.answer()[2] == b"held"
    status, headers, body = late.answer()
    assert (status, headers["x-trace-id"], headers["connection"]) == (503, "abc", "close")
    assert "retry-after" in headers
    assert body == b'{"detail":{"code":"SHUTTING_DOWN","message":"The service is shutting down"},"trace_id":"abc"}'
    assert stuck.answer()[0] == 503
    assert service.wait() == 0


def test_a_hanging_lifespan_is_left(start: Start) -> None:
    service = start(TEST_ENDING_SECONDS=60, TEST_LIFESPAN_SECONDS=1)
    service.signal()
    assert service.wait() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 200), (signal.SIGQUIT, 503)])
def test_ctrl_c_finishes_requests_and_sigquit_does_not(start: Start, release: Path, number: int, status: int) -> None:
    service = start(DRAIN_SECONDS=30, SHUTDOWN_TIMEOUT=60, TEST_RELEASE_FILE=release)
    busy = service.connect()
    busy.ask("/hold")
    wait_for_busy(service)
    os.killpg(service.pid, number)  # as a terminal does: to the master and to the workers
    if status == 200:
        release.touch()
    assert busy.answer()[0] == status
    assert service.wait() == 0


def test_orphaned_workers_leave_and_free_the_port(start: Start, release: Path) -> None:
    service = start(WEB_CONCURRENCY=2, DRAIN_SECONDS=30, SHUTDOWN_TIMEOUT=60, TEST_RELEASE_FILE=release)
    service.wait_for_workers(2)
    busy: Connection = service.connect()
    busy.ask("/hold")
    wait_for_busy(service)
    service.process.kill()
    release.touch()
    assert busy.answer()[0] == 200
    eventually(lambda: sum("Worker exiting" in message for message in service.messages()) == 2)
    successor = start(PORT=service.port)
    assert successor.get("/pid")[0] == 200
