"""One JSON object in each line of stdout, for the app, uvicorn and gunicorn."""

import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, cast

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from app.core.config import Settings
from app.core.observability.log_writer import log_writer
from app.core.observability.trace_id import get_otel_trace_id, get_trace_id

# Limits of one text in a line: its characters, its bytes of JSON, those of a traceback, and the bytes of JSON of one
# character. Workers share one pipe, and POSIX keeps a write whole only up to PIPE_BUF (4096 on Linux); an access line
# has its path twice.
_LONGEST_TEXT, _LONGEST_JSON, _LONGEST_TRACEBACK, _EXPANSION = 1500, 1700, 2000, 12
# Names that `extra` cannot use: those of the fixed fields, and uvicorn's copy of the message with terminal colours.
_RESERVED = "timestamp", "level", "logger", "service", "trace_id", "otel_trace_id", "exc_info", "color_message"

# Control characters (C0, C1), line separators, and those that change the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# The log lines do not contain them, and finding them costs as much as the rest of a record (Logging HOWTO,
# "Optimization").
logging._srcfile = None  # noqa: SLF001 - as documented there
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _text(value: str, longest: int = _LONGEST_JSON, *, from_end: bool = False) -> str:
    """Render a text as a JSON string in ASCII, cut to the limits."""
    text = _quote(value)
    if len(text) > longest:
        for length in _LONGEST_TEXT, longest // _EXPANSION:
            text = _quote(value[-length:] if from_end else value[:length])
            if len(text) <= longest:
                break
    return text


@lru_cache
def _member(name: str) -> str:
    return f", {_quote(name)}: "


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else json.dumps(value)


# Renderers of the types that most fields have.
_RENDER: dict[type, Callable[[Any], str]] = {str: _text, int: repr, float: _float, type(None): lambda _: "null"}


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


@lru_cache(maxsize=2)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


class JSONFormatter(JsonFormatter):
    """Renders a record with the fields that `docs/operations.md` names, and those that the caller gave as `extra`.

    Every request writes a line, so `format` writes the members one by one, in 3 us; python-json-logger's own takes 7
    (Python 3.13). Its knowledge of a record's attributes, tracebacks and values of any type is used.
    """

    def __init__(self, service: str) -> None:
        super().__init__(reserved_attrs=[*RESERVED_ATTRS, *_RESERVED])
        self._service = _text(service)

    def format(self, record: logging.LogRecord) -> str:
        """Render a record as one line."""
        extra = {name: value for name, value in record.__dict__.items() if name not in self.reserved_attrs}
        line = self.line(record.created, record.levelname, record.name, record.getMessage(), extra)
        if record.exc_info:
            # The end of a traceback tells what was raised, and where.
            traceback = _text(str(self.formatException(record.exc_info)), _LONGEST_TRACEBACK, from_end=True)
            line = f'{line[:-1]}, "exc_info": {traceback}}}'
        return line

    def line(self, created: float, level: str, logger: str, message: str, extra: Mapping[str, Any]) -> str:
        """Render what a record consists of."""
        second = int(created)
        line = (
            f'{{"timestamp": "{_second(second)}.{int((created - second) * 1000):03d}Z", "level": "{level}"'
            f', "logger": {_quote(logger)}, "message": {_text(message)}, "service": {self._service}'
        )
        if (trace_id := get_trace_id()) is not None:
            line += f', "trace_id": "{trace_id}"'
        if (otel_trace_id := get_otel_trace_id()) is not None:
            line += f', "otel_trace_id": "{otel_trace_id}"'
        for name, value in extra.items():
            line += _member(name) + (_RENDER.get(type(value)) or self.jsonify_log_record)(value)
        return line + "}"


# What a line of text does not repeat: a record's own attributes, and those that the access line's message has.
_OMITTED = {*RESERVED_ATTRS, *_RESERVED, "parts", "method", "path", "status"}


class TextFormatter(logging.Formatter):
    """Renders a record as text for a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s%(parts)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Add the trace id, and what the caller gave as `extra`."""
        parts = {"trace_id": get_trace_id()}
        parts |= {name: value for name, value in record.__dict__.items() if name not in _OMITTED}
        record.parts = _escape("".join(f"  {name}={value}" for name, value in parts.items() if value is not None))
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is `logging`'s
        """Escape what would control the terminal: a message may hold what a client sent, such as a path."""
        record.message = _escape(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - the names and types are `logging`'s
        """Escape each line of a traceback."""
        return "\n".join(map(_escape, super().formatException(ei).split("\n")))


class LineHandler(logging.Handler):
    """Hands each record to the log writer as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Render the record here, in the context of its request, and queue the line."""
        try:
            log_writer.put(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - as in `logging`'s own handlers
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is `logging`'s
        """Log that a record could not be rendered, without its content."""
        kind = type(sys.exception()).__name__
        failed = {"levelno": logging.ERROR, "levelname": "ERROR", "msg": f"A log record could not be rendered: {kind}"}
        log_writer.put(self.format(logging.makeLogRecord({"name": record.name, **failed})) + "\n")

    def write(self, line: str) -> None:
        """Queue a line that is rendered already."""
        self.acquire()
        try:
            log_writer.put(line + "\n")
        finally:
            self.release()

    def flush(self) -> None:
        """Wait until all is written, at most a second; `logging.shutdown` calls it as the process ends."""
        log_writer.flush()


_RECORD_WAY = logging.Logger.makeRecord, logging.Logger.handle, logging.Logger.callHandlers


def log_with_fields(logger: logging.Logger, level: int, message: str, *args: object, extra: Mapping[str, Any]) -> None:
    """Log as `logger.log` does to an enabled level, in a fifth of the time where only `LineHandler` sees the record.

    A filter, another handler, a record factory, and libraries that replace methods of `Logger` get a record as always.
    """
    handler = _only_handler(logger, level)
    if handler is None:
        logger.log(level, message, *args, extra=extra)
    else:
        formatter = cast("JSONFormatter", handler.formatter)
        handler.write(formatter.line(time.time(), logging.getLevelName(level), logger.name, message % args, extra))


def _only_handler(logger: logging.Logger, level: int) -> LineHandler | None:
    """Return the handler that `log_config` has set, if nothing else sees or changes what the logger writes."""
    kind, handlers = type(logger), logging.root.handlers
    if logger.filters or logger.handlers or not logger.propagate or logger.parent is not logging.root:
        return None
    if len(handlers) != 1 or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    if kind is not logging.Logger or (kind.makeRecord, kind.handle, kind.callHandlers) != _RECORD_WAY:
        return None
    handler = handlers[0]
    if type(handler) is not LineHandler or handler.filters or handler.level > level:
        return None
    return handler if type(handler.formatter) is JSONFormatter else None


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
