"""`OPS_PORT`: probes, metrics and documentation on a port of their own, on the same workers."""

import signal
import threading
from collections import Counter

import httpx2
import pytest

from tests.conftest import StartService
from tests.support.service import Service, eventually, free_port

OPERATIONS = [
    "/health/live",
    "/health/ready",
    "/metrics",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/assets/redoc.standalone.js",
]


@pytest.fixture
def service(start_service: StartService) -> Service:
    return start_service(OPS_PORT=str(free_port()))


def test_each_port_serves_its_own_paths_only(service: Service) -> None:
    for path in OPERATIONS:
        assert service.client.get(f"{service.operations_url}{path}").status_code == 200, path
        answer = service.client.get(path)
        assert (answer.status_code, answer.json()["detail"]["code"]) == (404, "NOT_FOUND"), path
        assert service.client.get(f"{path}/").status_code == 404, path
    assert service.client.get("/things").status_code == 200
    assert service.client.get(f"{service.operations_url}/things").status_code == 404
    assert service.client.post(f"{service.operations_url}/things", json={}).status_code == 404
    assert service.client.post("/metrics").status_code == 404


def test_a_path_of_the_other_port_is_unmatched_in_the_metrics(service: Service) -> None:
    service.client.get("/metrics")
    service.client.get(f"{service.operations_url}/things")

    text = service.client.get(f"{service.operations_url}/metrics").text

    assert 'http_requests_total{method="GET",path="unmatched",status="404"} 2.0' in text
    assert 'path="/things"' not in text


@pytest.mark.slow
def test_both_ports_drain_in_step(start_service: StartService) -> None:
    service = start_service(OPS_PORT=str(free_port()), DRAIN_SECONDS="6")
    statuses: Counter[tuple[str, int]] = Counter()

    def ask() -> None:
        with httpx2.Client(trust_env=False, timeout=60) as client:
            while service.process.poll() is None:
                try:
                    statuses["things", client.get(f"{service.url}/things").status_code] += 1
                    statuses["live", client.get(f"{service.operations_url}/health/live").status_code] += 1
                    statuses["ready", client.get(f"{service.operations_url}/health/ready").status_code] += 1
                except httpx2.TransportError:
                    return

    thread = threading.Thread(target=ask)
    eventually(lambda: service.client.get(f"{service.operations_url}/health/ready").status_code == 200)
    thread.start()
    eventually(lambda: statuses["ready", 200] > 3)
    service.process.send_signal(signal.SIGTERM)
    thread.join(120)

    assert service.wait() == 0
    assert statuses["ready", 503], statuses
    assert statuses["things", 200] > statuses["ready", 200], "served on during the drain"
    assert set(statuses) == {("things", 200), ("live", 200), ("ready", 200), ("ready", 503)}
