"""gunicorn's settings and hooks; `gunicorn.conf.py` imports them.

It runs once, in the master, before any worker is forked. The master imports neither the app nor
`app.core.observability.instruments`: a reload brings new code, and the master writes no metrics.
"""

import logging
import math
import os
import signal
import sys
from types import FrameType

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]

from app.core.config import Settings, load_settings
from app.core.observability.logs import log_config
from app.server import metrics_dir
from app.server.server import LIFESPAN_SECONDS
from app.server.shared_state import shared_state
from app.server.stderr_capture import capture_stderr
from app.server.worker import ServiceWorker


def _log_authentication(settings: Settings) -> None:
    """Say, in the first line of the log, whether callers must have a token."""
    log = logging.getLogger("app.server")
    if settings.auth_issuer is not None:
        log.info("authentication is on: tokens of %s for %s", settings.auth_issuer, settings.auth_audience)
    else:
        level = logging.WARNING if settings.environment == "production" else logging.INFO
        log.log(level, "authentication is off: AUTH_ISSUER is not set")


_settings = load_settings()
_host = f"[{_settings.host.strip('[]')}]" if ":" in _settings.host else _settings.host

logconfig_dict = log_config(_settings)
capture_stderr(logconfig_dict)
_log_authentication(_settings)
loglevel = _settings.log_level.lower()

bind = [f"{_host}:{port}" for port in (_settings.port, _settings.ops_port) if port is not None]
workers = _settings.web_concurrency
worker_class = "app.server.worker.ServiceWorker"
worker_tmp_dir = str(metrics_dir.memory_dir())
proc_name = _settings.service_name
forwarded_allow_ips = _settings.forwarded_allow_ips
# Signals do the same; the control socket would let anyone who can open its file change the number of workers.
control_socket_disable = True
# Above the idle timeout of load balancers (AWS and Google: 60 s), so that they close first.
keepalive = 75
# A worker sends a heartbeat every second or two. One that sends none for so long is replaced.
timeout = 20
# A worker that has not exited by then is killed. The margin of 5 s lets its own timeouts come first.
graceful_timeout = math.ceil(_settings.drain_seconds + _settings.shutdown_timeout + LIFESPAN_SECONDS + 5)

_metrics_folder = str(metrics_dir.prepare())


def when_ready(server: Arbiter) -> None:
    """Tell the workers at once when the whole service shuts down.

    The master may handle its signals late: during a reload it waits until the old workers have exited.
    """

    def announce(number: int, frame: FrameType | None) -> None:
        if os.getpid() != server.pid:
            os._exit(0)  # a worker just forked, with its master's handlers: it has nothing to finish
        if number == signal.SIGINT and not shared_state.shutting_down:
            # gunicorn would cancel requests in flight. The first Ctrl-C is graceful, without a drain: there is no load
            # balancer in front of a terminal. The second one is gunicorn's.
            shared_state.shut_down(drain=False)
            number = signal.SIGTERM
        elif number == signal.SIGTERM:
            shared_state.shut_down(drain=True)
        server.signal(number, frame)

    signal.signal(signal.SIGTERM, announce)
    signal.signal(signal.SIGINT, announce)


def pre_exec(server: Arbiter) -> None:
    """Start the new master of a SIGUSR2 as this one was started; gunicorn does not know of `python -m`."""
    server.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]


def pre_fork(server: Arbiter, worker: ServiceWorker) -> None:
    """Give the worker the lowest free slot, so that it continues its predecessor's metrics."""
    taken = {living.slot for living in server.WORKERS.values()}
    worker.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
    shared_state.booting(worker.slot)


def post_fork(_server: Arbiter, worker: ServiceWorker) -> None:
    """Tell the worker its slot."""
    os.environ["METRICS_SLOT"] = str(worker.slot)


def child_exit(_server: Arbiter, worker: ServiceWorker) -> None:
    """Clear the slot of a worker that has exited; its counters stay.

    gunicorn calls this before it forks again, so the slot has no new owner yet.
    """
    # Imported late: prometheus_client must not be imported before its folder exists.
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    shared_state.gone(worker.slot)
    mark_process_dead(worker.slot, _metrics_folder)  # type: ignore[no-untyped-call]
