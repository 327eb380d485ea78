"""`/metrics` stays as small as it is: whatever clients send, however often workers die."""

import os
import random
import re
import signal
import socket
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.core.observability.metrics_endpoint import WorkersCollector
from tests.conftest import StartService
from tests.server.conftest import launch
from tests.support.cluster import connected, run
from tests.support.service import Service, eventually

KILLS, WORKERS = 100, 4


def _rendered(folder: Path) -> str:
    """Render the metrics as a scrape does."""
    registry = CollectorRegistry()
    registry.register(WorkersCollector(str(folder)))
    return generate_latest(registry).decode()


def _value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.slow
def test_a_hundred_killed_workers_leave_no_file_no_cost_and_no_gap(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service = launch(
        tmp_path_factory.mktemp("service"),
        app="tests.observability.metered_app:app",
        WEB_CONCURRENCY=WORKERS,
        PROMETHEUS_MULTIPROC_DIR=tmp_path,
    ).wait_until_alive()
    try:
        eventually(lambda: _value(_rendered(tmp_path), "workers") == WORKERS)
        before = _rendered(tmp_path)
        files = {file.name for file in tmp_path.iterdir()}
        asked = 0
        for started in range(WORKERS, WORKERS + KILLS, WORKERS):
            for _ in range(5):
                assert service.get("/counted")[0] == 200
                asked += 1
            old = set(service.workers())
            for pid in old:
                os.kill(pid, signal.SIGKILL)
            starts = started + WORKERS
            eventually(lambda starts=starts: _value(_rendered(tmp_path), "worker_starts_total") == starts)  # type: ignore[misc]

        after = _rendered(tmp_path)
        name = 'http_requests_total{method="GET",path="/counted",status="200"}'
        assert _value(after, name) - _value(before, name) == asked
        assert _value(after, "worker_starts_total") == WORKERS + KILLS
        eventually(lambda: _value(_rendered(tmp_path), "workers") == WORKERS)
        assert {file.name for file in tmp_path.iterdir()} == files | {f"gauge_livesum_{n}.db" for n in range(WORKERS)}
        assert len(after.splitlines()) <= len(before.splitlines()) + 20
    finally:
        service.stop()


def _names(text: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def _pipelined(service: Service, requests: list[bytes]) -> None:
    """Send requests on one connection, without waiting for answers, and read them all."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=120) as connection:
        connection.sendall(b"".join(requests))
        got, answers = b"", 0
        while answers < len(requests):
            chunk = connection.recv(262144)
            assert chunk, "closed too early"
            got = got[-8:] + chunk  # what marks an answer may be cut in two
            answers += got.count(b"HTTP/1.1 ") - (got[:8].count(b"HTTP/1.1 "))


@pytest.mark.slow
def test_ten_thousand_paths_and_methods_add_a_constant_number_of_series(start_service: StartService) -> None:
    service = start_service(LOG_LEVEL="WARNING")
    generator = random.Random(3)  # noqa: S311 - the same at every run

    def word() -> str:
        return "".join(generator.choices(string.ascii_letters, k=12))

    # Known to the parser; all but GET and POST are no methods of ours.
    methods = ("GET", "POST", "PROPFIND", "MKCOL", "REPORT", "PURGE", "LOCK", "M-SEARCH")

    def request() -> bytes:
        path = generator.choice((f"/{word()}", f"/things/{word()}", f"/{word()}/{word()}", f"/things/batch/{word()}"))
        head = f"{generator.choice(methods)} {path} HTTP/1.1\r\nHost: x\r\nX-Trace-ID: {word()}\r\n"
        return f"{head}Content-Length: 0\r\n\r\n".encode()

    def odd() -> bytes:
        return f"{word().upper()} /{word()} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    for _ in range(4):  # by now both workers have met everything
        _pipelined(service, [request() for _ in range(200)])
        service.raw(odd())
    before = _names(service.client.get("/metrics").text)
    for _ in range(95):
        _pipelined(service, [request() for _ in range(100)])
    for _ in range(500):
        assert service.raw(odd()).startswith(b"HTTP/1.1 400 ")

    text = service.client.get("/metrics").text
    # The scrape itself is new; and a worker may have missed some combination at first.
    assert len(_names(text) - before) <= 40
    assert _value(text, 'http_requests_total{method="_OTHER",path="unmatched",status="400"}') == 504
    assert _value(text, 'http_requests_total{method="GET",path="unmatched",status="404"}') > 500
    assert len(_names(text)) < 1500


def test_what_the_server_refuses_is_counted_before_its_answer_is_there(service: Service) -> None:
    requests = {
        "400": b"GARBAGE\r\n\r\n",
        "414": b"GET /" + b"y" * 9_000,
        "431": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
    }
    for status, request in requests.items():
        name = f'http_requests_total{{method="_OTHER",path="unmatched",status="{status}"}}'
        before = _value(service.client.get("/metrics").text, name)
        assert service.raw(request).startswith(f"HTTP/1.1 {status} ".encode())
        assert _value(service.client.get("/metrics").text, name) == before + 1


def test_a_scrape_does_not_wait_for_the_database_s_threads(start_service: StartService, database_url: str) -> None:
    service = start_service(WEB_CONCURRENCY="1", DB_POOL_SIZE="1", DB_STATEMENT_TIMEOUT="0", DB_POOL_TIMEOUT="60")
    with connected(database_url) as connection, ThreadPoolExecutor(4) as pool:
        run(connection, "BEGIN")
        run(connection, "LOCK TABLE things")
        stuck = [pool.submit(httpx2.get, f"{service.url}/things?limit=100", timeout=120) for _ in range(4)]
        eventually(lambda: _value(service.client.get("/metrics").text, "db_pool_waiting") == 3)
        text = service.client.get("/metrics").text
        assert not any(future.done() for future in stuck)
        run(connection, "ROLLBACK")
        assert _value(text, 'db_pool_connections{state="in_use"}') == 1
        assert _value(text, "http_requests_in_progress") == 5
        assert {future.result().status_code for future in stuck} == {200}
    eventually(lambda: _value(service.client.get("/metrics").text, "db_pool_waiting") == 0)


def test_a_scrape_passes_over_a_file_that_a_worker_has_just_made(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(WEB_CONCURRENCY="1", PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "metrics"))
    (tmp_path / "metrics" / "gauge_livesum_1.db").touch()

    assert service.client.get("/metrics").status_code == 200


def test_the_process_is_seen(service: Service) -> None:
    def seen() -> bool:
        text = service.client.get("/metrics").text
        return (
            _value(text, "workers") == 2
            and _value(text, "db_up") == 1
            and _value(text, "service_ready") == 1
            and 2 * 30e6 < _value(text, "process_resident_memory_bytes") < 2 * 500e6
            and _value(text, "process_open_fds") > 10
            and _value(text, "process_cpu_seconds_total") > 0.5
            and "event_loop_lag_seconds" in text
            and "threads_busy 0.0" in text
            and _value(text, "worker_starts_total") >= 2
        )

    eventually(seen)
