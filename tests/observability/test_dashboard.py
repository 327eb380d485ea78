"""Every query of the dashboard gives data, from a Prometheus that scraped the service under load and under failures."""

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app import __title__
from tests.conftest import StartService
from tests.support.downstream import json_reply, reply, stub_service
from tests.support.prometheus import Prometheus, needs_prometheus, scraping
from tests.support.proxy import Proxy
from tests.support.service import ROOT, Service, eventually

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "service.json"


def _queries() -> list[tuple[str, str]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]


def _load(service: Service, ended: threading.Event) -> None:
    """Ask for everything, again and again; what fails is meant to."""
    with httpx2.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        for n in range(1_000_000):
            if ended.is_set():
                return
            client.post("/things", json={"name": "Lamp", "price": 1})
            client.post("/things", json={"name": "Lamp", "price": 1}, headers={"Idempotency-Key": f"key-{n // 2}"})
            for path in (
                "/things/1",
                "/things",
                "/things/999999",
                "/nowhere",
                "/things/1/stock",
                "/events/sync?count=1",
            ):
                client.get(path)
            time.sleep(0.02)


def _with_authentication(start_service: StartService, folder: Path) -> Service:
    """Start a service that refuses what `_load` asks, since it has no token."""
    keys = folder / "keys.json"
    keys.write_text('{"keys": []}')
    return start_service(AUTH_ISSUER="https://id.example", AUTH_AUDIENCE="things", AUTH_JWKS_FILE=str(keys))


def _holds_data(prometheus: Prometheus, expression: str) -> bool:
    for name, value in (("$job", __title__), ("$__rate_interval", "15s"), ("[15m]", "[30s]")):
        expression = expression.replace(name, value)
    return any(not math.isnan(float(point["value"][1])) for point in prometheus.query(expression))


def _answers(prometheus: Prometheus, status: str) -> float:
    """Count those of the last half minute, as Prometheus knows it."""
    points = prometheus.query(f'sum(increase(http_requests_total{{status="{status}"}}[30s]))')
    return float(points[0]["value"][1]) if points else 0.0


@pytest.mark.slow
@needs_prometheus
def test_every_query_of_the_dashboard_gives_data(start_service: StartService, proxy: Proxy, tmp_path: Path) -> None:
    with stub_service() as stub:
        stub.answer(*[answer for _ in range(20) for answer in (json_reply({"quantity": 3}), reply(500))])
        service = start_service(
            app="tests.server.stream_app:app",
            DATABASE_URL=proxy.url,
            WAREHOUSE_URL=stub.url,
            DB_SLOW_STATEMENT="0.001",
        )
        guarded = _with_authentication(start_service, tmp_path)
        ended = threading.Event()
        loads = [threading.Thread(target=_load, args=(asked, ended)) for asked in (service,) * 4 + (guarded,)]
        with scraping(tmp_path / "prometheus", service.url, guarded.url) as prometheus:
            for load in loads:
                load.start()
            try:
                eventually(lambda: _answers(prometheus, "200") > 0)
                proxy.refuse()
                eventually(lambda: _answers(prometheus, "503") > 0)
                proxy.accept()
                queries = _queries()
                assert len(queries) > 30

                def missing() -> list[tuple[str, str]]:
                    return [query for query in queries if not _holds_data(prometheus, query[1])]

                try:
                    eventually(lambda: not missing(), pause=1)
                except AssertionError:
                    raise AssertionError(f"without data: {missing()}") from None
            finally:
                ended.set()
                for load in loads:
                    load.join(120)


def test_the_dashboard_is_one_that_grafana_can_load() -> None:
    dashboard = json.loads(DASHBOARD.read_text())

    assert dashboard["uid"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
