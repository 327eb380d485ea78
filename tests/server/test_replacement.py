"""Workers that are replaced: nobody notices."""

import os
import signal
from pathlib import Path

import pytest

from tests.server.conftest import Start, wait_for_busy, worker_of
from tests.server.load import Load
from tests.support.service import eventually

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_loses_nothing_and_stays_ready(start: Start, workers: int) -> None:
    service = start(WEB_CONCURRENCY=workers, TEST_BOOT_SECONDS=0.5)
    loads = [Load(service, path="/ready"), Load(service, path="/ready", keep_alive=False)]
    old = set(service.workers())
    service.signal(signal.SIGHUP)
    eventually(lambda: len(service.workers()) == workers and not old & set(service.workers()))
    for load in loads:
        load.wait_for(10)
        assert load.stop().keys() == {"200"}


@pytest.mark.parametrize("workers", [1, 2])
def test_recycling_loses_nothing(start: Start, workers: int) -> None:
    service = start(WEB_CONCURRENCY=workers, GUNICORN_CMD_ARGS="--max-requests 100 --max-requests-jitter 20")
    loads = [Load(service), Load(service, keep_alive=False), Load(service, path="/sleep/0.05")]
    eventually(lambda: sum("Retiring" in message for message in service.messages()) >= 3)
    for load in loads:
        assert load.stop().keys() == {"200"}


def test_a_retiring_worker_waits_for_a_successor_and_tells_its_clients(start: Start, tmp_path: Path) -> None:
    boots = tmp_path / "boots"
    boots.touch()
    service = start(TEST_BOOT_FILE=boots, TEST__IDLE_RETIRING=8, SHUTDOWN_TIMEOUT=600)
    old = worker_of(service)[0]
    boots.unlink()
    told, untold = service.connect(), service.connect()
    for connection in (told, untold):
        connection.get("/pid")
    service.signal(signal.SIGHUP)
    eventually(lambda: "Retiring" in service.messages())
    assert worker_of(service)[0] == old, "it accepts while the successor boots"
    boots.touch()
    assert told.get("/pid")[1]["connection"] == "close"
    assert untold.closed()  # when it has been quiet for long enough, which is before SHUTDOWN_TIMEOUT


def test_a_quiet_connection_gets_no_answer_it_did_not_ask_for(start: Start) -> None:
    service = start(SHUTDOWN_TIMEOUT=1)
    quiet, never_used = service.connect(), service.connect()
    quiet.get("/pid")
    service.signal(signal.SIGHUP)
    assert quiet.closed()
    assert never_used.closed()


def test_sigterm_in_the_middle_of_a_reload_turns_readiness_at_once(start: Start, tmp_path: Path) -> None:
    service = start(DRAIN_SECONDS=8, SHUTDOWN_TIMEOUT=60, TEST_RELEASE_FILE=tmp_path / "release")
    busy = service.connect()
    busy.ask("/hold")
    wait_for_busy(service)
    service.signal(signal.SIGHUP)
    eventually(lambda: "Retiring" in service.messages(), pause=0.01)
    service.signal()
    eventually(lambda: service.get("/ready")[0] == 503, pause=0.01)
    (tmp_path / "release").touch()
    assert busy.answer()[0] == 200
    assert service.wait() == 0


def test_fewer_workers_on_sigttou(start: Start) -> None:
    service = start(WEB_CONCURRENCY=2)
    eventually(lambda: len(service.workers()) == 2)
    load = Load(service, path="/ready")
    service.signal(signal.SIGTTOU)
    eventually(lambda: len(service.workers()) == 1)
    assert load.stop().keys() == {"200"}


def test_a_killed_worker_is_replaced_in_its_slot(start: Start) -> None:
    service = start(WEB_CONCURRENCY=2)
    pid, slot = worker_of(service)
    eventually(lambda: len(service.workers()) == 2)
    other = next(worker for worker in service.workers() if worker != pid)
    folder = service.metrics_dir()
    (folder / f"counter_{slot}.db").touch()
    (folder / f"gauge_livesum_{slot}.db").touch()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(service.workers()) == 2 and pid not in service.workers())
    successor = next(worker for worker in service.workers() if worker != other)
    eventually(lambda: (successor, slot) == worker_of(service))
    assert (folder / f"counter_{slot}.db").exists()
    assert not (folder / f"gauge_livesum_{slot}.db").exists()


def test_a_hung_worker_is_replaced_while_others_serve(start: Start) -> None:
    service = start(WEB_CONCURRENCY=2, GUNICORN_CMD_ARGS="--timeout 10")  # which is for the start of a worker, too
    service.wait_for_workers(2)
    hung = worker_of(service)[0]  # gunicorn counts from a worker's first sign of life
    os.kill(hung, signal.SIGSTOP)
    eventually(lambda: hung not in service.workers() and len(service.workers()) == 2)
    assert all(service.get("/pid")[0] == 200 for _ in range(20))


def test_a_draining_worker_is_not_taken_for_hung(start: Start) -> None:
    service = start(WEB_CONCURRENCY=2, GUNICORN_CMD_ARGS="--timeout 10", SHUTDOWN_TIMEOUT=60)
    eventually(lambda: len(service.workers()) == 2)
    busy = service.connect()
    busy.ask("/sleep/14")
    wait_for_busy(service)
    for _ in range(2):
        service.signal(signal.SIGTTIN)
        service.signal(signal.SIGTTOU)
    service.signal(signal.SIGTTOU)
    assert busy.answer()[2] == b"slept"
    assert not any("TIMEOUT" in message for message in service.messages())


def test_a_new_master_serves_beside_the_old_one_on_sigusr2_and_goes_on_after_it(start: Start) -> None:
    service = start()
    (old,) = service.workers()
    load = Load(service, keep_alive=False)
    service.signal(signal.SIGUSR2)
    eventually(lambda: worker_of(service)[0] != old, seen=service.output)
    master = next(child for child in service.workers() if child != old)
    service.signal()
    assert service.wait() == 0
    assert worker_of(service)[0] != old
    assert load.stop().keys() == {"200"}
    os.kill(master, signal.SIGTERM)
    eventually(lambda: "".join(service.messages()).count("Shutting down: Master") == 2, seen=service.output)
