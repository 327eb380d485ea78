"""The worker class: one process, one event loop, one `ServiceServer`."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from app.core.config import load_settings
from app.core.observability.log_writer import log_writer
from app.server.protocol import timeouts
from app.server.server import ServiceServer
from app.server.shared_state import shared_state

# Seconds for threads that cannot be stopped (a health check, a name lookup), after the app has shut down.
_THREAD_SECONDS = 1.0


def _exit(_number: int | None = None, _frame: FrameType | None = None) -> None:
    log_writer.flush()
    os._exit(0)


class ServiceWorker(UvicornWorker):  # type: ignore[misc]
    """A gunicorn worker that serves ASGI with uvloop and httptools.

    Attributes
    ----------
    slot
        The lowest number that no other running worker has; set by the master before it forks.
    """

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - as uvicorn-worker declares it
        "loop": "uvloop",
        "http": "app.server.protocol.http:ServiceProtocol",
        "ws": "app.server.protocol.websocket:ServiceWebSocket",
        # Compression costs CPU time, and memory for as long as a WebSocket is open.
        "ws_per_message_deflate": False,
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        # Seconds between two heartbeats; uvicorn checks once a second.
        "timeout_notify": 0.5,
    }
    slot: int = 0

    def init_signals(self) -> None:
        """Exit at once on a signal that comes before the server listens: no request is in flight yet."""
        super().init_signals()
        signal.signal(signal.SIGTERM, _exit)
        signal.signal(signal.SIGQUIT, _exit)
        # Ctrl-C reaches the whole process group; the master decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def load_wsgi(self) -> None:
        """Import the app; if that fails, log it once and end the service instead of retrying forever."""
        try:
            super().load_wsgi()
        except (Exception, SystemExit):
            self.log.exception("The application cannot be loaded")
            sys.exit(Arbiter.APP_LOAD_ERROR)

    async def _serve(self) -> None:
        settings = load_settings()
        self.config.app = self.wsgi
        self.config.ws_max_size = settings.max_body_bytes
        self.config.ws_ping_interval = self.config.ws_ping_timeout = timeouts.PING_SECONDS
        server = ServiceServer(
            self.config,
            shared_state=shared_state,
            slot=self.slot,
            parent=self.ppid,
            drain_seconds=settings.drain_seconds,
            finish_seconds=settings.shutdown_timeout,
        )
        await server.serve(sockets=[listener.sock for listener in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        # The interpreter waits for threads without a timeout.
        watchdog = threading.Timer(_THREAD_SECONDS, _exit)
        watchdog.daemon = True
        watchdog.start()
