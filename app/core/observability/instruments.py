"""The metrics.

Under gunicorn every worker writes its values into memory-mapped files in `PROMETHEUS_MULTIPROC_DIR`, and a
scrape of any worker sums the files of all (`metrics_endpoint.py`). The files are named by the worker's slot
(`METRICS_SLOT`), not by its process id: a worker that replaces another continues its counters, so they
never decrease, and there are never more files than slots (`app/server/gunicorn_conf.py` assigns the slots).
"""

import os

from prometheus_client import (
    PROCESS_COLLECTOR,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from app import __version__
from app.core.observability.metric_files import use_allocated_files

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR" in os.environ
if MULTIPROCESS:
    use_allocated_files(os.environ.get("METRICS_SLOT", str(os.getpid())))

# It reports only the process that is scraped; `process_sampler` reports all workers.
REGISTRY.unregister(PROCESS_COLLECTOR)

# Seconds; recommended by the OpenTelemetry semantic conventions for http.server.request.duration.
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

HTTP_REQUESTS = Counter("http_requests", "Answered requests.", ["method", "path", "status"])
HTTP_DURATION = Histogram(
    "http_request_duration_seconds",
    "Seconds from the head of a request to the end of its response.",
    ["method", "path"],
    buckets=DURATION_BUCKETS,
)
HTTP_STREAM_DURATION = Histogram(
    "http_stream_duration_seconds",
    "Seconds from the head of a request to the end of its stream or WebSocket, which is not in the latency.",
    ["method", "path"],
    buckets=(1, 10, 60, 600, 3600),
)
HTTP_STREAMS = Gauge(
    "http_streams_open", "Streams and WebSockets that are open.", ["kind"], multiprocess_mode="livesum"
)
HTTP_IN_PROGRESS = Gauge("http_requests_in_progress", "Requests that are being served.", multiprocess_mode="livesum")
HTTP_SHED = Counter("http_requests_shed", "Requests rejected because of too many requests in flight.", ["reason"])
LOG_RECORDS_DROPPED = Counter(
    "log_records_dropped", "Log lines that were not written because stdout was closed or not read."
)
IDEMPOTENT_REPLAYS = Counter("idempotent_replays", "Creates that were answered from their Idempotency-Key.")
DB_POOL_CONNECTIONS = Gauge(
    "db_pool_connections",
    "Connections of the pools, by state.",
    ["state"],
    multiprocess_mode="livesum",
)
DB_POOL_WAITING = Gauge("db_pool_waiting", "Units of work that wait for a connection.", multiprocess_mode="livesum")
DB_POOL_WAIT = Histogram(
    "db_pool_wait_seconds",
    "Seconds that a unit of work waited for a connection.",
    buckets=DURATION_BUCKETS,
)
DB_ERRORS = Counter(
    "db_errors",
    "Units of work that failed, by the class (two characters) of PostgreSQL's SQLSTATE; `none` where it sent none.",
    ["sqlstate_class"],
)
DB_SLOW_STATEMENTS = Counter("db_slow_statements", "Statements that took longer than DB_SLOW_STATEMENT.")
DB_UP = Gauge(
    "db_up", "1 while the database answers, otherwise 0; minimum over the workers.", multiprocess_mode="livemin"
)
DOWNSTREAM_REQUESTS = Counter(
    "downstream_requests",
    "Calls to other services by outcome, each counted once after all of its attempts.",
    ["service", "outcome"],
)
DOWNSTREAM_DURATION = Histogram(
    "downstream_request_duration_seconds",
    "Seconds of a whole call to another service, including retries and waits; without calls that the breaker rejected.",
    ["service"],
    buckets=DURATION_BUCKETS,
)
DOWNSTREAM_BREAKER = Gauge(
    "downstream_breaker_state",
    "Circuit breaker of another service: 0 closed, 1 half-open, 2 open; maximum over the workers.",
    ["service"],
    multiprocess_mode="livemax",
)
AUTH_FAILURES = Counter(
    "auth_failures", "Requests without a valid token, or without a scope that they need.", ["reason"]
)
AUTH_KEYS_AGE = Gauge(
    "auth_keys_age_seconds",
    "Seconds since the issuer's keys were last read, or since startup; maximum over the workers.",
    multiprocess_mode="livemax",
)
PERIODIC_JOBS = Counter(
    "periodic_jobs",
    "Runs of periodic jobs, each in one worker of all replicas, by how they ended.",
    ["job", "outcome"],
)
SERVICE_READY = Gauge(
    "service_ready",
    "The status of /health/ready: 1 for 200, 0 for 503; minimum over the workers.",
    multiprocess_mode="livemin",
)
WORKERS = Gauge("workers", "Running workers.", multiprocess_mode="livesum")
WORKER_STARTS = Counter("worker_starts", "Workers started, including replacements.")
THREADS_BUSY = Gauge("threads_busy", "Busy threads of anyio, of all workers.", multiprocess_mode="livesum")
EVENT_LOOP_LAG = Gauge(
    "event_loop_lag_seconds",
    "Seconds by which the worker's last timer was late; maximum over the workers.",
    multiprocess_mode="livemax",
)
PROCESS_CPU = Counter("process_cpu_seconds", "CPU seconds of all workers since the service started.")
PROCESS_MEMORY = Gauge(
    "process_resident_memory_bytes", "Resident memory of all workers, in bytes.", multiprocess_mode="livesum"
)
PROCESS_FDS = Gauge("process_open_fds", "Open file descriptors of all workers.", multiprocess_mode="livesum")
APP_INFO = Gauge("app_info", "Always 1; the version is in the label.", ["version"], multiprocess_mode="max")
disable_created_metrics()  # type: ignore[no-untyped-call]
APP_INFO.labels(__version__).set(1)
# Created at once: a series that starts with its first failure hides that failure from `rate()`.
for _class in ("none", "08", "40", "53", "57"):
    DB_ERRORS.labels(_class)
