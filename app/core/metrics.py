"""The instruments, and `GET /metrics` over all workers.

Under gunicorn every worker writes its values into memory-mapped files in `PROMETHEUS_MULTIPROC_DIR`, and a
scrape of any worker sums the files of all. The files are named by the worker's slot (`METRICS_SLOT`), not by
its process id: a worker that replaces another goes on with that one's counters, so they never go back, and
there are never more files than slots (`app/server/gunicorn_conf.py` gives out the slots).
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from fastapi import APIRouter
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
    values,
)
from starlette.responses import Response

from app import __version__

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR" in os.environ
if MULTIPROCESS:
    _slot = os.environ.get("METRICS_SLOT", str(os.getpid()))
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _slot)  # type: ignore[no-untyped-call]

# Seconds; the advice of the OpenTelemetry semantic conventions for http.server.request.duration.
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

HTTP_REQUESTS = Counter("http_requests", "Answered requests.", ["method", "path", "status"])
HTTP_DURATION = Histogram(
    "http_request_duration_seconds",
    "Seconds from the head of a request to the end of its answer.",
    ["method", "path"],
    buckets=DURATION_BUCKETS,
)
HTTP_IN_PROGRESS = Gauge("http_requests_in_progress", "Requests that are being served.", multiprocess_mode="livesum")
DB_POOL_CONNECTIONS = Gauge(
    "db_pool_connections",
    "Connections of the pools, by state.",
    ["state"],
    multiprocess_mode="livesum",
)
DB_POOL_WAIT = Histogram(
    "db_pool_wait_seconds",
    "Seconds that a unit of work waited for a connection.",
    buckets=DURATION_BUCKETS,
)
DOWNSTREAM_REQUESTS = Counter(
    "downstream_requests",
    "Calls to other services, each counted once, by how it ended after all its tries.",
    ["service", "outcome"],
)
DOWNSTREAM_DURATION = Histogram(
    "downstream_request_duration_seconds",
    "Seconds of a whole call to another service, retries and waits included; without those the breaker refused.",
    ["service"],
    buckets=DURATION_BUCKETS,
)
DOWNSTREAM_BREAKER = Gauge(
    "downstream_breaker_state",
    "Circuit breaker of another service: 0 closed, 1 half-open, 2 open; of all workers the highest.",
    ["service"],
    multiprocess_mode="livemax",
)
APP_INFO = Gauge("app_info", "Always 1; the version is in the label.", ["version"], multiprocess_mode="max")
disable_created_metrics()  # type: ignore[no-untyped-call]
APP_INFO.labels(__version__).set(1)

router = APIRouter(tags=["operations"])
# A scrape reads files: not on the event loop, and not behind the requests that wait for a database thread.
_scraper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")


@lru_cache(maxsize=1)
def _registry() -> CollectorRegistry:
    if not MULTIPROCESS:
        return REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


@router.get(
    "/metrics",
    summary="Metrics of all workers, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def get_metrics() -> Response:
    """Render the sum over all workers in the Prometheus text format."""
    loop = asyncio.get_running_loop()
    content = await loop.run_in_executor(_scraper, generate_latest, _registry())
    return Response(content, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
