"""SIGTERM: drain, finish, leave."""

import os
import signal
import time

import pytest

from tests.server.conftest import Start
from tests.server.load import Load
from tests.support.http import Connection
from tests.support.service import eventually


@pytest.mark.parametrize("workers", [2])
def test_no_request_fails_during_the_drain(start: Start, workers: int) -> None:
    service = start(WEB_CONCURRENCY=workers, DRAIN_SECONDS=1.5)
    loads = [Load(service), Load(service, keep_alive=False), Load(service, path="/sleep/0.1")]
    time.sleep(0.3)
    service.signal()
    time.sleep(0.4)
    service.signal()  # once more changes nothing
    time.sleep(0.7)
    for load in loads:
        outcomes = load.stop()
        assert outcomes.keys() == {"200"}
        assert outcomes["200"] > 10
    assert service.wait() == 0


def test_readiness_turns_at_once_and_answers_say_close(start: Start) -> None:
    service = start(DRAIN_SECONDS=2)
    idle = service.connect()
    assert idle.get("/ready")[0] == 200
    busy = service.connect()
    busy.ask("/sleep/0.6")
    time.sleep(0.1)
    service.signal()
    eventually(lambda: service.get("/ready")[0] == 503, 1)
    status, headers, _ = idle.get("/pid")
    assert (status, headers["connection"]) == (200, "close")
    assert busy.answer()[1]["connection"] == "close"


def test_it_leaves_right_after_the_drain(start: Start) -> None:
    service = start(DRAIN_SECONDS=1, SHUTDOWN_TIMEOUT=30)
    idle = service.connect()
    idle.get("/pid")
    started = time.monotonic()
    service.signal()
    assert service.wait() == 0
    assert 1 <= time.monotonic() - started < 5
    assert "was sent SIGTERM" not in "".join(service.messages())


def test_requests_in_flight_finish_and_late_ones_get_503(start: Start) -> None:
    service = start(SHUTDOWN_TIMEOUT=1)
    finishing, late, stuck, streaming = (service.connect() for _ in range(4))
    finishing.ask("/sleep/0.8")
    late.send(b"GET /sleep/60 HTTP/1.1\r\nHost: x\r\nX-Trace-ID: abc\r\n\r\n")
    stuck.ask("/block/60")
    streaming.ask("/stream")
    time.sleep(0.2)
    started = time.monotonic()
    service.signal()
    assert finishing.answer()[2] == b"slept"
    status, headers, body = late.answer()
    assert (status, headers["x-trace-id"], headers["connection"]) == (503, "abc", "close")
    assert "retry-after" in headers
    assert body == b'{"detail":{"code":"SHUTTING_DOWN","message":"The service is shutting down"},"trace_id":"abc"}'
    assert stuck.answer()[0] == 503
    assert service.wait() == 0
    assert time.monotonic() - started < 8


def test_a_hanging_lifespan_is_left(start: Start) -> None:
    service = start(TEST_ENDING_SECONDS=60, TEST_LIFESPAN_SECONDS=1)
    started = time.monotonic()
    service.signal()
    assert service.wait() == 0
    assert time.monotonic() - started < 6


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 200), (signal.SIGQUIT, 503)])
def test_ctrl_c_finishes_requests_and_sigquit_does_not(start: Start, number: int, status: int) -> None:
    service = start(DRAIN_SECONDS=30)
    busy = service.connect()
    busy.ask("/sleep/1")
    time.sleep(0.2)
    os.killpg(service.pid, number)  # as a terminal does: to the master and to the workers
    assert busy.answer()[0] == status
    assert service.wait() == 0


def test_orphaned_workers_leave_and_free_the_port(start: Start) -> None:
    service = start(WEB_CONCURRENCY=2, DRAIN_SECONDS=30)
    busy: Connection = service.connect()
    busy.ask("/sleep/0.8")
    time.sleep(0.2)
    service.process.kill()
    assert busy.answer()[0] == 200
    successor = start(PORT=service.port)
    assert successor.get("/pid")[0] == 200
    eventually(lambda: sum("Worker exiting" in message for message in service.messages()) == 2)
