"""One JSON object a line on stdout, for the app, uvicorn and gunicorn alike."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from app.core.config import Settings
from app.core.tracing import get_otel_trace_id, get_trace_id

# Several workers share one pipe: POSIX keeps a write whole only up to PIPE_BUF (4096 on Linux), and
# a JSON string can double in length when it is escaped.
_LONGEST_TEXT = 1500


class JSONFormatter(JsonFormatter):
    """Renders a record with the fields that `docs/operations.md` names."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill `log_data`: the fixed fields first, then whatever the caller gave as `extra`."""
        created = datetime.fromtimestamp(record.created, UTC)
        log_data["timestamp"] = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = None  # its place; `super` fills it
        log_data["service"] = self._service
        if (trace_id := get_trace_id()) is not None:
            log_data["trace_id"] = trace_id
        if (otel_trace_id := get_otel_trace_id()) is not None:
            log_data["otel_trace_id"] = otel_trace_id
        super().add_fields(log_data, record, message_dict)
        # uvicorn's copy of the message with terminal colours.
        log_data.pop("color_message", None)
        for name, value in log_data.items():
            if isinstance(value, str) and len(value) > _LONGEST_TEXT:
                # The end of a traceback tells what was raised, and where.
                log_data[name] = value[-_LONGEST_TEXT:] if name == "exc_info" else value[:_LONGEST_TEXT]


class LineHandler(logging.StreamHandler[Any]):
    """Writes each record as one line in one write to the stdout of the moment."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)


def log_config(settings: Settings) -> dict[str, Any]:
    """Build the `logging.config.dictConfig` for the whole process.

    gunicorn takes it as `logconfig_dict`; without gunicorn, `configure_logging` applies it. gunicorn's and
    uvicorn's loggers do not propagate, because uvicorn's worker class hands gunicorn's handlers to uvicorn's.
    `uvicorn.access` is silent: the access line is written by `app.core.middleware`, with the trace id.
    """
    server_logger = {"level": settings.log_level, "handlers": ["stdout"], "propagate": False}
    silent = {"level": "CRITICAL", "handlers": [], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JSONFormatter, "service": settings.service_name}},
        "handlers": {"stdout": {"()": LineHandler, "formatter": "json"}},
        "root": {"level": settings.log_level, "handlers": ["stdout"]},
        "loggers": {
            "gunicorn.error": server_logger,
            "gunicorn.access": silent,
            "uvicorn.error": server_logger,
            "uvicorn.access": silent,
            # One line a downstream call, with its URL; `app.core.client` says what there is to say.
            "httpx2": {"level": "WARNING"},
            "httpcore2": {"level": "WARNING"},
        },
    }
