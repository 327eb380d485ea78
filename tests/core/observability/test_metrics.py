"""`/metrics`: exact over all workers, monotonic whatever happens to them, and bounded."""

import os
import random
import shutil
import signal
import string
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app import __version__
from tests.conftest import StartService
from tests.support.service import Service, eventually

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(service: Service) -> Series:
    """Read every series."""
    response = service.client.get("/metrics")
    assert response.status_code == 200
    families = text_string_to_metric_families(response.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(series: Series, name: str, **labels: str) -> float:
    """Read one series, 0 where it is not there."""
    return series.get((name, frozenset(labels.items())), 0.0)


def fresh(service: Service, method: str, path: str, **options: object) -> httpx2.Response:
    """Ask on a connection of its own, so that the kernel chooses a worker each time."""
    headers = {"Connection": "close"}
    return service.client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]


def test_requests_are_counted_exactly_over_all_workers(service: Service) -> None:
    requests = [
        ("GET", "/things", 200),
        ("GET", "/things/999999999", 404),
        ("POST", "/things", 415),
        ("HEAD", "/things", 200),
        ("PUT", "/things/5", 405),
        ("GET", "/nothing/here", 404),
        ("DELETE", "/things/x", 422),
        ("GET", "/health/live", 200),
    ] * 25
    random.Random(1).shuffle(requests)  # noqa: S311 - the same at every run
    before = scrape(service)

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda r: fresh(service, r[0], r[1], content=b"x" if r[0] == "POST" else None).status_code, requests
            )
        )

    assert answers == [status for _, _, status in requests]
    after = scrape(service)
    templates = {
        "/things/999999999": "/things/{thing_id}",
        "/things/5": "/things/{thing_id}",
        "/things/x": "/things/{thing_id}",
        "/nothing/here": "unmatched",
    }
    expected = Counter((method, templates.get(path, path), str(status)) for method, path, status in requests)
    for (method, path, status), count in expected.items():
        labels = {"method": method, "path": path}
        answered = [value(s, "http_requests_total", **labels, status=status) for s in (before, after)]
        assert answered[1] - answered[0] == count, (method, path)
        durations = sum(n for (m, p, _), n in expected.items() if (m, p) == (method, path))
        counted = [value(s, "http_request_duration_seconds_count", **labels) for s in (before, after)]
        assert counted[1] - counted[0] == durations


def test_whoever_has_an_answer_finds_it_counted(service: Service) -> None:
    labels = {"method": "GET", "path": "/things", "status": "200"}
    for _ in range(20):
        before = value(scrape(service), "http_requests_total", **labels)
        fresh(service, "GET", "/things")
        assert value(scrape(service), "http_requests_total", **labels) == before + 1


def test_series_are_bounded_whatever_clients_send(service: Service) -> None:
    generator = random.Random(2)  # noqa: S311 - the same at every run

    def word() -> str:
        return "".join(generator.choices(string.ascii_letters, k=12))

    scrape(service)
    for method in ("GET", "POST", "PROPFIND", "MKCOL", "REPORT", "PURGE"):
        service.client.request(method, f"/{word()}")
        service.client.request(method, f"/things/{word()}")
    before = set(scrape(service))
    words = [word() for _ in range(1000)]

    for n, path in enumerate(words):
        method = ("GET", "POST", "PROPFIND", "MKCOL", "REPORT", "PURGE")[n % 6]
        service.client.request(
            method, (f"/{path}", f"/things/{path}", f"/things?{path}=1")[n % 3], headers={"X-Trace-ID": path}
        )

    text = service.client.get("/metrics").text
    assert not [path for path in words if path in text]
    assert "PROPFIND" not in text
    assert value(scrape(service), "http_requests_total", method="_OTHER", path="unmatched", status="404") > 0
    assert len(set(scrape(service)) - before) < 120


@pytest.mark.slow
def test_counters_survive_a_killed_worker_and_files_stay_bounded(start_service: StartService, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    service = start_service(PROMETHEUS_MULTIPROC_DIR=str(folder))
    service.wait_for_workers(2)
    labels = {"method": "GET", "path": "/things", "status": "200"}
    files = set()
    for killed in range(1, 4):
        for _ in range(20):
            fresh(service, "GET", "/things")
        assert value(scrape(service), "http_requests_total", **labels) == 20 * killed
        files.add(len(list(folder.glob("*.db"))))
        victim = random.Random(killed).choice(service.workers())  # noqa: S311 - the same at every run
        os.kill(victim, signal.SIGKILL)
        eventually(lambda victim=victim: victim not in service.workers())  # type: ignore[misc]
        service.client.close()
        service.client = httpx2.Client(base_url=service.url, timeout=120, trust_env=False)
        service.wait_for_workers(2)
        assert value(scrape(service), "http_requests_total", **labels) == 20 * killed

    assert len(list(folder.glob("*.db"))) <= max(files)
    series = scrape(service)
    assert value(series, "http_requests_in_progress") == 1
    assert value(series, "app_info", version=__version__) == 1


def test_in_progress_is_the_scrape_itself_when_nothing_else_is(service: Service) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fresh(service, "GET", "/things"), range(40)))

    eventually(lambda: value(scrape(service), "http_requests_in_progress") == 1)


def test_the_pool_shows_its_connections_and_waits(service: Service) -> None:
    before = value(scrape(service), "db_pool_wait_seconds_count")
    for _ in range(5):
        service.client.get("/things")

    series = scrape(service)
    # Each worker's periodic job may have waited for one, too.
    assert before + 5 <= value(series, "db_pool_wait_seconds_count") <= before + 7
    eventually(lambda: value(scrape(service), "db_pool_connections", state="in_use") == 0)
    assert 1 <= value(scrape(service), "db_pool_connections", state="idle") <= 2 * 8


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on this machine")
def test_promtool_finds_nothing_to_say(service: Service) -> None:
    for path in ("/things", "/nothing", "/things/1"):
        service.client.get(path)

    result = subprocess.run(
        ["promtool", "check", "metrics"],
        input=service.client.get("/metrics").content,
        capture_output=True,
        timeout=240,
        check=False,
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_the_contract_s_metrics_are_there(service: Service) -> None:
    service.client.get("/things")
    response = service.client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=")
    assert response.headers["cache-control"] == "no-store"
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    kinds = {name: family.type for name, family in families.items()}
    assert {
        "http_requests": "counter",
        "http_request_duration_seconds": "histogram",
        "http_requests_in_progress": "gauge",
        "db_pool_connections": "gauge",
        "db_pool_wait_seconds": "histogram",
        "app_info": "gauge",
    }.items() <= kinds.items()
    assert all(family.documentation for family in families.values())
    assert {label for family in families.values() for sample in family.samples for label in sample.labels} <= {
        "method",
        "path",
        "status",
        "le",
        "job",
        "state",
        "version",
        "service",
        "outcome",
        "pool",
        "reason",
        "kind",
        "sqlstate_class",
    }


def test_one_process_alone_has_metrics_too(client: TestClient) -> None:
    client.get("/things")

    assert 'http_requests_total{method="GET",path="/things",status="200"}' in client.get("/metrics").text
