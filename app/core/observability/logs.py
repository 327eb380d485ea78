"""One JSON object in each line of stdout, for the app, uvicorn and gunicorn."""

import logging
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quote
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from app.core.config import Settings
from app.core.observability.log_writer import log_writer
from app.core.observability.trace_id import get_otel_trace_id, get_trace_id

# Several workers share one pipe: POSIX keeps a write whole only up to PIPE_BUF (4096 on Linux), and
# a JSON string can double in length when it is escaped.
_LONGEST_TEXT = 1500

_LONGEST_DETAIL = 500

# Control characters (C0, C1), line separators, and those that change the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# The logger of the line that every request writes.
_ACCESS = "app.access"

# The log lines do not contain them, and finding them costs as much as the rest of a record (Logging HOWTO,
# "Optimization").
logging._srcfile = None  # noqa: SLF001 - as documented there
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _text(value: str | None, limit: int = _LONGEST_TEXT) -> str:
    """Write a JSON string of at most about `limit` characters, in ASCII, where one character may take twelve."""
    if value is None:
        return "null"
    text = _quote(value)
    return text if len(text) <= limit else _quote(value[: limit // 12])


def _fields(details: Mapping[str, str | int] | None) -> str:
    """Return further fields of the access line as members of its JSON object."""
    if not details:
        return ""
    return "".join(
        f', "{name}": {_text(v, _LONGEST_DETAIL) if isinstance(v, str) else v}' for name, v in details.items()
    )


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


@lru_cache(maxsize=2)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


class JSONFormatter(JsonFormatter):
    """Renders a record with the fields that `docs/operations.md` names."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Render a record; the access line, whose fields are known, on a shorter way to the same text."""
        if record.name != _ACCESS:
            return super().format(record)
        otel_trace_id = get_otel_trace_id()
        otel = f', "otel_trace_id": "{otel_trace_id}"' if otel_trace_id else ""
        return (
            f'{{"timestamp": "{_second(int(record.created))}.{int(record.msecs):03d}Z", "level": "{record.levelname}"'
            f', "logger": "{_ACCESS}", "message": {_text(record.getMessage())}, "service": "{self._service}"'
            f', "trace_id": "{get_trace_id()}"{otel}'
            f', "method": {_text(record.method)}, "path": {_text(record.path)}, "status": {record.status}'  # type: ignore[attr-defined]
            f', "duration_ms": {record.duration_ms}, "client": {_text(record.client)}'  # type: ignore[attr-defined]
            f"{_fields(record.details)}}}"  # type: ignore[attr-defined]
        )

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


class TextFormatter(logging.Formatter):
    """Renders a record for the developer in front of a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s%(parts)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Add the time that a request took, and its trace id."""
        parts = {"ms": getattr(record, "duration_ms", None), "trace_id": get_trace_id()}
        parts |= getattr(record, "details", None) or {}
        record.parts = _escape("".join(f"  {name}={value}" for name, value in parts.items() if value is not None))
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is `logging`'s
        """Escape what would control the terminal: a message may hold what a client sent, such as a path."""
        record.message = _escape(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - the names and types are `logging`'s
        """Escape each line of a traceback."""
        return "\n".join(map(_escape, super().formatException(ei).split("\n")))


class LineHandler(logging.StreamHandler[Any]):
    """Hands each record to the log writer as one line; writes it itself where `setStream` gave it another stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = sys.__stdout__  # None where it is closed, for which `logging` would take stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Render the record here, in the context of its request, and queue the line."""
        if self.stream is not sys.__stdout__:
            super().emit(record)
            return
        try:
            log_writer.put(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001 - as every handler of `logging` has it
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is `logging`'s
        """Say that a record could not be rendered, without what it holds."""
        kind = type(sys.exception()).__name__
        failed = {"levelno": logging.ERROR, "levelname": "ERROR", "msg": f"A log record could not be rendered: {kind}"}
        log_writer.put(self.format(logging.makeLogRecord({"name": record.name, **failed})) + self.terminator)

    def flush(self) -> None:
        """Wait until all is written, at most a second; `logging.shutdown` calls it as the process ends."""
        if self.stream is sys.__stdout__:
            log_writer.flush()
        else:
            super().flush()


def log_config(settings: Settings) -> dict[str, Any]:
    """Build the `logging.config.dictConfig` for the whole process.

    gunicorn receives it as `logconfig_dict`; scripts apply it themselves. gunicorn's and
    uvicorn's loggers do not propagate, because uvicorn's worker class hands gunicorn's handlers to uvicorn's.
    `uvicorn.access` is silent: the access line is written by `app.core.observability.access_log`, with the trace id.
    With `ENVIRONMENT=development` on a terminal (`scripts/run --reload`) the lines are readable text.
    """
    readable = settings.environment == "development" and sys.stdout is not None and sys.stdout.isatty()
    server_logger = {"level": settings.log_level, "handlers": ["stdout"], "propagate": False}
    silent = {"level": "CRITICAL", "handlers": [], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JSONFormatter, "service": settings.service_name}, "text": {"()": TextFormatter}},
        "handlers": {"stdout": {"()": LineHandler, "formatter": "text" if readable else "json"}},
        "root": {"level": settings.log_level, "handlers": ["stdout"]},
        "loggers": {
            "gunicorn.error": server_logger,
            "gunicorn.access": silent,
            "uvicorn.error": server_logger,
            "uvicorn.access": silent,
            # They log every call with its URL; `app.core.client` logs failures.
            "httpx2": {"level": "WARNING"},
            "httpcore2": {"level": "WARNING"},
        },
    }
