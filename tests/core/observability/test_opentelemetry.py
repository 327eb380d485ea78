"""Traces: one id through log line, error body, spans and downstream; and a collector that is away costs nothing."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app import __title__
from app.core.observability.trace_id import w3c_trace_id
from tests.conftest import MakeClient, StartService
from tests.support.cluster import Cluster
from tests.support.collector import Collector, attributes
from tests.support.downstream import Stub, json_reply, reply, stub_service
from tests.support.service import ROOT, Service, environment, eventually

pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6a3ce929d0e0e473"
"""One digit short: each test adds its own."""
PARENT = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with closing(Collector()) as collector:
        yield collector


@pytest.fixture(scope="module")
def _stub() -> Iterator[Stub]:
    with stub_service() as stub:
        yield stub


@pytest.fixture
def stub(_stub: Stub) -> Stub:
    _stub.answer(json_reply({"quantity": 12}))
    return _stub


@pytest.fixture(scope="module")
def traced(
    cluster: Cluster, collector: Collector, _stub: Stub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with cluster.database() as url:
        variables = {
            "DATABASE_URL": url,
            "HOST": "127.0.0.1",
            "WEB_CONCURRENCY": "1",
            "DRAIN_SECONDS": "0",
            "SHUTDOWN_TIMEOUT": "5",
            "WAREHOUSE_URL": _stub.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        service = Service(tmp_path_factory.mktemp("traced"), variables)
        try:
            service.wait_until_alive()
            yield service
        finally:
            service.stop()


def _server(spans: list[Span]) -> Span:
    [span] = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    return span


def test_a_trace_reaches_through(traced: Service, collector: Collector, stub: Stub) -> None:
    trace = TRACE + "1"
    parent = {"traceparent": f"00-{trace}-{PARENT}-01", "tracestate": "vendor=1"}
    traced.client.post("/things", json={"name": "Lamp", "price": 1.5}, headers=parent)
    created = eventually(lambda: [s for s in collector.of(trace) if s.name in {"INSERT", "WITH"}])

    server = _server(collector.of(trace))
    assert (server.name, server.parent_span_id.hex()) == ("POST /things", PARENT)
    assert attributes(server)["http.response.status_code"] == 201
    assert created[0].parent_span_id == server.span_id
    statement = attributes(created[0])
    assert statement["db.system.name"] == "postgresql"
    assert "INSERT INTO things" in statement["db.query.text"]
    assert "Lamp" not in str(statement)
    assert {"service.name": __title__, "deployment.environment.name": "production"}.items() <= (
        collector.resources[-1].items()
    )

    trace = TRACE + "2"
    traced.client.get("/things/7/stock", headers={"traceparent": f"00-{trace}-{PARENT}-01"})
    [call] = [s for s in collector.of(trace) if s.kind == Span.SPAN_KIND_CLIENT]
    assert attributes(call)["url.full"] == f"{stub.url}/stock/7"
    assert stub.received[0].headers["traceparent"] == f"00-{trace}-{call.span_id.hex()}-01"
    assert stub.received[0].headers["x-trace-id"] == trace


def test_log_line_error_body_and_trace_meet(traced: Service, collector: Collector) -> None:
    answers = {
        "new": traced.client.get("/things/999"),
        "ours": traced.client.get("/things/998", headers={"X-Trace-ID": TRACE + "3"}),
        "both": traced.client.get(
            "/things/997", headers={"X-Trace-ID": TRACE + "4", "traceparent": f"00-{TRACE}5-{PARENT}-01"}
        ),
    }
    for answer in answers.values():
        trace_id = answer.json()["trace_id"]
        assert answer.headers["x-trace-id"] == trace_id
        assert attributes(_server(collector.of(trace_id)))["http.route"] == "/things/{thing_id}"
        [line] = [line for line in traced.logged(trace_id) if line["logger"] == "app.access"]
        assert "otel_trace_id" not in line
    assert answers["ours"].json()["trace_id"] == TRACE + "3"
    assert answers["both"].json()["trace_id"] == TRACE + "4"


def test_an_id_of_another_form_is_on_the_span_and_the_spans_id_in_the_log(
    traced: Service, collector: Collector, stub: Stub
) -> None:
    cases = {
        w3c_trace_id("order-17"): {"X-Trace-ID": "order-17"},
        TRACE + "6": {"X-Trace-ID": "order-18", "traceparent": f"00-{TRACE}6-{PARENT}-01"},
    }
    for trace_id, headers in cases.items():
        answer = traced.client.get("/things/7/stock", headers=headers)
        assert answer.headers["x-trace-id"] == headers["X-Trace-ID"]
        assert attributes(_server(collector.of(trace_id)))["app.trace_id"] == headers["X-Trace-ID"]
        [line] = eventually(lambda headers=headers: traced.lines_of(headers["X-Trace-ID"]))  # type: ignore[misc]
        assert line["otel_trace_id"] == trace_id
        assert stub.received[-1].headers["x-trace-id"] == headers["X-Trace-ID"]
        assert stub.received[-1].headers["traceparent"].split("-")[1] == trace_id


def test_a_caller_that_does_not_record_is_heard(traced: Service, collector: Collector, stub: Stub) -> None:
    traced.client.get("/things/7/stock", headers={"traceparent": f"00-{TRACE}7-{PARENT}-00"})
    assert stub.received[0].headers["traceparent"].startswith(f"00-{TRACE}7-")
    assert stub.received[0].headers["traceparent"].endswith("-00")

    traced.client.get("/things/7/stock", headers={"traceparent": f"00-{TRACE}8-{PARENT}-01"})
    collector.of(TRACE + "8")
    assert not [span for span in collector.spans if span.trace_id.hex() == TRACE + "7"]


def test_without_tracing_the_flag_is_passed_on(make_client: MakeClient, stub: Stub) -> None:
    client = make_client(warehouse_url=stub.url)
    for headers, flags in (
        ({"traceparent": f"00-{TRACE}9-{PARENT}-01"}, "01"),
        ({"traceparent": f"00-{TRACE}9-{PARENT}-00"}, "00"),
        ({"traceparent": f"00-{TRACE}9-{PARENT}-01", "X-Trace-ID": "order"}, "01"),
        ({}, "00"),
    ):
        client.get("/things/7/stock", headers=headers)
        assert stub.received[-1].headers["traceparent"].endswith(f"-{flags}"), headers


def test_machines_leave_no_trace_and_what_fails_is_marked(traced: Service, collector: Collector, stub: Stub) -> None:
    for number, path in enumerate(("/health/live", "/health/ready", "/metrics")):
        traced.client.get(path, headers={"X-Trace-ID": f"{TRACE[:-1]}a{number}"})
    stub.answer(reply(500))
    traced.client.get("/things/7/stock?x=secret", headers={"X-Trace-ID": TRACE + "b"})

    spans = collector.of(TRACE + "b")
    assert _server(spans).status.code == Status.STATUS_CODE_ERROR
    assert attributes(_server(spans))["http.response.status_code"] == 502
    assert not [span for span in collector.spans if span.trace_id.hex().startswith(TRACE[:-1] + "a")]
    assert "secret" not in str(collector.spans)


def test_the_last_spans_are_sent_when_the_service_ends(start_service: StartService, collector: Collector) -> None:
    service = start_service(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="60000")
    service.client.get("/things", headers={"X-Trace-ID": TRACE + "c"})

    assert service.stop() == 0

    assert len(collector.of(TRACE + "c")) == 2


@pytest.mark.parametrize("away", ["refuses", "hangs"])
def test_a_collector_that_is_away_costs_no_request_anything(start_service: StartService, away: str) -> None:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and never answers
        port = listener.getsockname()[1] if away == "hangs" else 1
        service = start_service(
            WEB_CONCURRENCY="1",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_BSP_MAX_QUEUE_SIZE="64",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="16",
        )
        durations = []
        for _ in range(300):
            started = time.perf_counter()
            assert service.client.get("/things").status_code == 200
            durations.append(time.perf_counter() - started)

        assert max(durations) < 8  # seconds; an exporter that waits takes 10
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 30
        assert not [line for line in service.lines() if "Traceback" in str(line)]


def test_what_is_off_is_not_imported() -> None:
    code = (
        "import sys, app.main; "
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter',"
        " 'opentelemetry.instrumentation', 'google.protobuf', 'requests', 'app.core.observability.opentelemetry'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none"),
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert result.stdout.strip().splitlines()[-1] == "[]"
