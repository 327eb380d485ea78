"""Workers that die, hang and are replaced, and services that are: who asks notices nothing."""

import contextlib
import os
import signal
import socket
import time
from functools import partial

import pytest

from tests.faults.conftest import MOMENT, Report, StartService
from tests.faults.history import History
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

# Requests for which recycling, reloading and restarting must not fail once.
ENOUGH = 20_000
# No request may fail, however busy the machine is.
PATIENT = {"DB_POOL_TIMEOUT": "60", "DB_STATEMENT_TIMEOUT": "60", "DRAIN_SECONDS": "4"}


def enough(history: History, number: int = ENOUGH) -> bool:
    return len(history.answers) >= number


def _replaced(service: Service, victim: int) -> bool:
    workers = service.workers()
    return victim not in workers and len(workers) == 2


def _retired(service: Service) -> int:
    return sum(message == "Retiring" for message in service.messages())


def test_workers_that_are_killed(database: str, start: StartService, report: Report) -> None:
    service = start(database)
    with History(service.url).going_on() as history:
        for _ in range(4):
            history.wait_for(100)
            victim = service.workers()[0]
            os.kill(victim, signal.SIGKILL)
            ended = time.monotonic()
            eventually(partial(_replaced, service, victim))
        history.wait_until_well()
    verdict = report(history.judge("4 x a worker killed (-9)", database, ended=ended))
    assert verdict.failed <= 4 * 12, "only what the dead had in hand"
    assert verdict.recovered is not None
    assert verdict.recovered < MOMENT


def test_a_worker_that_hangs(database: str, start: StartService, report: Report) -> None:
    service = start(database, arguments="--timeout 5")
    with History(service.url).going_on() as history:
        history.wait_for(100)
        victim = service.workers()[0]
        os.kill(victim, signal.SIGSTOP)
        ended = time.monotonic()
        eventually(partial(_replaced, service, victim))
        history.wait_until_well()
    verdict = report(history.judge("a worker stopped (SIGSTOP), noticed after --timeout 5", database, ended=ended))
    assert verdict.failed <= 12
    assert verdict.worst < 5 + MOMENT


def test_recycling(database: str, start: StartService, report: Report) -> None:
    service = start(database, arguments="--max-requests 1500 --max-requests-jitter 500", **PATIENT)
    with History(service.url, clients=16, pause=0.002).going_on() as history:
        eventually(lambda: enough(history) and _retired(service) >= 8, 900)
    verdict = report(history.judge(f"recycling by max_requests, {_retired(service)} times", database))
    assert verdict.failed == 0
    assert verdict.sent >= ENOUGH


def test_reloading(database: str, start: StartService, report: Report) -> None:
    service = start(database, **PATIENT)
    not_ready = 0
    reloads = 0
    with History(service.url, clients=16, pause=0.002).going_on() as history:
        while not (enough(history) and reloads >= 5):
            if len(history.answers) > (reloads + 1) * ENOUGH // 6:
                service.process.send_signal(signal.SIGHUP)
                reloads += 1
            not_ready += "SHUTTING_DOWN" in service.client.get("/health/ready").text
            time.sleep(0.2)
    verdict = report(history.judge(f"{reloads} x reload (SIGHUP)", database))
    assert not_ready == 0
    assert verdict.failed == 0


def test_a_rolling_restart(database: str, start: StartService, report: Report) -> None:
    """Two instances behind clients that take turns, as a load balancer does: ready ones only, new ones before old."""
    instances = [start(database, **PATIENT), start(database, **PATIENT)]
    urls = [instance.url for instance in instances]
    history = History(*urls, clients=16, pause=0.002)
    with history.going_on():
        restarts = 0
        while not (enough(history) and restarts >= 4):
            if len(history.answers) < (restarts + 1) * ENOUGH // 5:
                time.sleep(0.1)
                continue
            number = restarts % 2
            old = instances[number]
            # As an orchestrator: no new connections to the one that ends, then SIGTERM, then the next one.
            history.use(urls[1 - number])
            assert old.stop() == 0
            instances[number] = start(database, **PATIENT, PORT=str(old.port))
            history.use(*urls)
            restarts += 1
    verdict = report(history.judge(f"rolling restart of 2 instances, {restarts} times one", database))
    assert verdict.failed == 0


def test_five_hundred_slow_clients(database: str, start: StartService, report: Report) -> None:
    service = start(database, **PATIENT)
    with History(service.url).going_on() as history, contextlib.ExitStack() as stack:
        history.wait_for(500)
        calm = max(answer.seconds for answer in history.answers)
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 60)) for _ in range(500)]
        heads, bodies = slow[::2], slow[1::2]
        for connections, rest in ((heads, b"X-Slow: "), (bodies, b"Content-Length: 100000\r\n\r\n{")):
            for connection in connections:
                connection.sendall(b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + rest)
        began = time.monotonic()
        eventually(lambda: not _open_after_another_byte(heads, bodies), pause=2)
        seconds = time.monotonic() - began
        assert service.client.get("/health/live").status_code == 200
        history.wait_for(100)
    note = f"worst {calm:.2f} s without them; those with slow heads were closed within {seconds:.0f} s"
    verdict = report(history.judge("500 clients that drip heads and bodies", database, note=note))
    assert verdict.failed == 0
    assert verdict.worst < MOMENT


def _open_after_another_byte(heads: list[socket.socket], bodies: list[socket.socket]) -> int:
    """Send a byte on each connection, and count those of `heads` on which the server has not answered or closed."""
    for connection in (*heads, *bodies):
        with contextlib.suppress(OSError):
            connection.send(b"a")
    return sum(_is_open(connection) for connection in heads)


def _is_open(connection: socket.socket) -> bool:
    """Tell whether the server has neither closed the connection nor said that the request was too slow."""
    connection.setblocking(False)  # noqa: FBT003
    try:
        data = connection.recv(65536)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return data != b"" and b" 408 " not in data
