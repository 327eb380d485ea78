"""A real Prometheus with our rules watches the service under load while its database is stopped.

With `OUTAGE_PICTURE=FILE` the run is drawn, from Prometheus' own data: that is docs/images/outage.svg.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from postgres import pause, resume, running
from tests.conftest import StartService
from tests.support.cluster import prepare
from tests.support.picture import Chart, draw
from tests.support.prometheus import Prometheus, needs_prometheus, scraping
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

SPEED = 40
# What a slow machine is enough for.
SLOWNESS = ("Latency", "EventLoopBlocked", "DatabasePoolExhausted", "ServiceDown")


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Run a PostgreSQL that may be stopped: its folder, and the URL of a migrated database."""
    data = tmp_path / "postgres"
    with running(data, durable=False) as url:
        prepare(url)
        yield data, url


def _load(service: Service, ended: threading.Event) -> None:
    with httpx2.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        client.post("/things", json={"name": "Lamp", "price": 1})
        while not ended.is_set():
            client.get("/things/1")
            time.sleep(0.02)


def _firing(prometheus: Prometheus) -> set[str]:
    return {name for name in prometheus.firing() if not name.startswith(SLOWNESS)}


def _watched(prometheus: Prometheus, seconds: float) -> set[str]:
    """Name every alert that fires within the next seconds."""
    fired: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        fired |= _firing(prometheus)
        time.sleep(0.5)
    return fired


@needs_prometheus
def test_the_database_stops_under_load_and_one_alert_fires_and_clears(
    start_service: StartService, own_postgres: tuple[Path, str], tmp_path: Path
) -> None:
    data, url = own_postgres
    service = start_service(DATABASE_URL=url)
    workers = service.wait_for_workers(2)
    ended = threading.Event()
    loads = [threading.Thread(target=_load, args=(service, ended)) for _ in range(4)]
    with scraping(tmp_path / "prometheus", service.url, speed=SPEED) as prometheus:
        began = time.monotonic()
        for load in loads:
            load.start()
        try:
            eventually(lambda: prometheus.query("job:http_errors_per_request:ratio_rate5m"))
            assert _watched(prometheus, 4) == set()

            pause(data)
            eventually(lambda: "DatabaseAway" in prometheus.firing())
            assert _watched(prometheus, 8) == {"DatabaseAway"}
            assert float(prometheus.query("job:http_errors_per_request:ratio_rate5m")[0]["value"][1]) > 0.5

            resume(data)
            eventually(lambda: not _firing(prometheus))
            # Longer than the shortest window (5 minutes / SPEED), which still remembers the failures.
            assert _watched(prometheus, 12) == set()
            assert service.workers() == workers
            if picture := os.environ.get("OUTAGE_PICTURE"):
                _draw(prometheus, time.monotonic() - began, Path(picture))
        finally:
            ended.set()
            for load in loads:
                load.join(120)


def _draw(prometheus: Prometheus, seconds: float, file: Path) -> None:
    requests = prometheus.range('sum by (status) (rate(http_requests_total{path="/things/{thing_id}"}[5s]))', seconds)
    state = {
        name: next(iter(prometheus.range(f"min({name})", seconds).values())) for name in ("db_up", "service_ready")
    }
    durations = 'sum by (le) (rate(http_request_duration_seconds_bucket{path="/things/{thing_id}"}[5s]))'
    p95 = prometheus.range(f"histogram_quantile(0.95, {durations})", seconds)
    alerts = prometheus.range('max by (alertname) (ALERTS{alertstate="firing"})', seconds)
    away = alerts.get("alertname=DatabaseAway", [])
    draw(
        file,
        "The database is stopped under load, and started again",
        [
            Chart("Requests a second, by status", requests),
            Chart("95th percentile of the duration, seconds", {"p95": p95.get("", [])}),
            Chart("db_up, service_ready", state),
        ],
        shade=("DatabaseAway fires", away[0][0], away[-1][0]),
    )
