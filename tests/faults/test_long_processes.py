"""Workers that die, hang and are replaced, and services that are: who asks notices nothing."""

import os
import signal
import socket
import time
from functools import partial

import pytest

from tests.faults.conftest import Report, StartService
from tests.faults.history import History
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

# Requests for which recycling, reloading and restarting must not fail once.
ENOUGH = 20_000


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
            time.sleep(1)
            victim = service.workers()[0]
            os.kill(victim, signal.SIGKILL)
            ended = time.monotonic()
            eventually(partial(_replaced, service, victim), 20)
        time.sleep(2)
    verdict = report(history.judge("4 x a worker killed (-9)", database, ended=ended))
    assert verdict.failed <= 4 * 12, "only what the dead had in hand"
    assert verdict.recovered is not None
    assert verdict.recovered < 1


def test_a_worker_that_hangs(database: str, start: StartService, report: Report) -> None:
    service = start(database, arguments="--timeout 5")
    with History(service.url).going_on() as history:
        time.sleep(1)
        victim = service.workers()[0]
        os.kill(victim, signal.SIGSTOP)
        ended = time.monotonic()
        eventually(partial(_replaced, service, victim), 20)
        time.sleep(3)
    verdict = report(history.judge("a worker stopped (SIGSTOP), noticed after --timeout 5", database, ended=ended))
    assert verdict.failed <= 12
    assert verdict.worst < 12


def test_recycling(database: str, start: StartService, report: Report) -> None:
    service = start(database, arguments="--max-requests 1500 --max-requests-jitter 500")
    with History(service.url, clients=16, pause=0.002).going_on() as history:
        eventually(lambda: enough(history) and _retired(service) >= 8, 150)
    verdict = report(history.judge(f"recycling by max_requests, {_retired(service)} times", database))
    assert verdict.failed == 0
    assert verdict.sent >= ENOUGH


def test_reloading(database: str, start: StartService, report: Report) -> None:
    service = start(database)
    not_ready = 0
    reloads = 0
    with History(service.url, clients=16, pause=0.002).going_on() as history:
        while not enough(history):
            if len(history.answers) > (reloads + 1) * ENOUGH // 6:
                service.process.send_signal(signal.SIGHUP)
                reloads += 1
            not_ready += service.client.get("/health/ready").status_code != 200
            time.sleep(0.2)
    verdict = report(history.judge(f"{reloads} x reload (SIGHUP)", database))
    assert reloads >= 4
    assert not_ready == 0
    assert verdict.failed == 0


def test_a_rolling_restart(database: str, start: StartService, report: Report) -> None:
    """Two instances behind clients that take turns, as a load balancer does: ready ones only, new ones before old."""
    instances = [start(database), start(database)]
    urls = [instance.url for instance in instances]
    history = History(*urls, clients=16, pause=0.002)
    with history.going_on():
        restarts = 0
        while not enough(history):
            if len(history.answers) < (restarts + 1) * ENOUGH // 5:
                time.sleep(0.1)
                continue
            number = restarts % 2
            old = instances[number]
            # As an orchestrator: no new connections to the one that ends, then SIGTERM, then the next one.
            history.use(urls[1 - number])
            assert old.stop(30) == 0
            instances[number] = start(database, PORT=str(old.port))
            history.use(*urls)
            restarts += 1
    verdict = report(history.judge(f"rolling restart of 2 instances, {restarts} times one", database))
    assert restarts >= 4
    assert verdict.failed == 0


def test_five_hundred_slow_clients(database: str, start: StartService, report: Report) -> None:
    service = start(database)
    with History(service.url).going_on() as history:
        time.sleep(3)
        calm = max(answer.seconds for answer in history.answers)
        slow = [socket.create_connection(("127.0.0.1", service.port), 5) for _ in range(500)]
        for number, connection in enumerate(slow):
            body = number % 2
            connection.sendall(
                b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + (b"Content-Length: 100000\r\n\r\n{" if body else b"X-Slow: ")
            )
        began = time.monotonic()
        open_ones = len(slow)
        while time.monotonic() - began < 14:
            for connection in slow:
                try:
                    connection.send(b"a")
                except OSError:
                    continue
            time.sleep(2)
            began_probe = time.monotonic()
            assert service.client.get("/health/live").status_code == 200
            assert time.monotonic() - began_probe < 0.5
        open_ones = sum(_is_open(connection) for connection in slow)
        for connection in slow:
            connection.close()
        time.sleep(1)
    note = f"worst {calm:.2f} s without them; {500 - open_ones} of 500 closed within 14 s"
    verdict = report(history.judge("500 clients that drip heads and bodies", database, note=note))
    assert verdict.failed == 0
    assert verdict.worst < 1.5
    assert open_ones <= 250, "those that drip heads are gone after 10 s"


def _is_open(connection: socket.socket) -> bool:
    """Tell whether the server has neither closed the connection nor said that the request was too slow."""
    connection.settimeout(0.01)
    try:
        data = connection.recv(65536)
    except TimeoutError:
        return True
    except OSError:
        return False
    return data != b"" and b" 408 " not in data
