"""The access line and the metrics of one request: written once, when its response is complete or was cut off."""

import logging
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import Scope

from app.core.config import PROBE_PATHS
from app.core.observability.instruments import HTTP_DURATION, HTTP_REQUESTS, HTTP_STREAM_DURATION
from app.core.observability.logs import log_with_fields

_log = logging.getLogger("app.access")

# All other methods count as `_OTHER`, as in the OpenTelemetry conventions, so that the number of series is limited.
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})

# Characters; a proxy may pass on what the client sent as its address.
_LONGEST_ADDRESS = 64

_requests = lru_cache(maxsize=4096)(HTTP_REQUESTS.labels)
_durations = lru_cache(maxsize=1024)(HTTP_DURATION.labels)
_stream_durations = lru_cache(maxsize=1024)(HTTP_STREAM_DURATION.labels)


def caller_details(scope: Scope) -> dict[str, str | int]:
    """Return the field of the access line that names the caller; none if no token was verified."""
    caller = scope.get("state", {}).get("caller")  # set by `app.core.api.authentication`
    return {} if caller is None else {"caller": caller.subject}


def record_request(
    scope: Scope,
    method: str,
    template: str,
    status: int,
    duration: float,
    *,
    stream: bool = False,
    details: Mapping[str, str | int],
) -> None:
    """Count and log a request.

    Parameters
    ----------
    scope
        Of the request, for its path and the client's address.
    method
        As the client sent it.
    template
        The path of the route, for the metrics.
    status
        Of the response; 499 if the client left before its end.
    duration
        In seconds.
    stream
        Whether the response is a stream or a WebSocket: its duration does not count as latency.
    details
        Further fields of the access line.
    """
    label = method if method in _KNOWN_METHODS else "_OTHER"
    _requests(label, template, str(status)).inc()
    (_stream_durations if stream else _durations)(label, template).observe(duration)
    level = logging.DEBUG if template in PROBE_PATHS else logging.INFO
    if _log.isEnabledFor(level):
        path = scope["path"]
        extra = {
            "method": method,
            "path": path,
            "status": status,
            "duration_ms": round(duration * 1000, 3),
            "client": scope["client"][0][:_LONGEST_ADDRESS] if scope.get("client") else None,
            **details,
        }
        log_with_fields(_log, level, "%s %s %d", method, path, status, extra=extra)
