"""Statements that took long are logged: their text, never their values."""

import logging
import time
from typing import Any

from sqlalchemy import Engine, event

from app.core.observability.instruments import DB_SLOW_STATEMENTS

_log = logging.getLogger(__name__)


def log_slow_statements(engine: Engine, bound: float) -> None:
    """Log every statement of `engine` that takes more than `bound` seconds, also one that fails."""

    def begin(_connection: object, _cursor: object, _text: str, _values: object, context: Any, _many: object) -> None:  # noqa: ANN401
        context.began = time.monotonic()

    def end(_connection: object, _cursor: object, text: str, _values: object, context: Any, _many: object) -> None:  # noqa: ANN401
        if time.monotonic() - context.began > bound:
            _report(text, time.monotonic() - context.began)

    def fail(error: Any) -> None:  # noqa: ANN401
        began = getattr(error.execution_context, "began", None)
        if began is not None and time.monotonic() - began > bound:
            _report(error.statement, time.monotonic() - began)

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    event.listen(engine, "handle_error", fail)


def _report(text: str, seconds: float) -> None:
    DB_SLOW_STATEMENTS.inc()
    extra = {"statement": " ".join(text.split()), "duration_ms": round(seconds * 1000, 3)}
    _log.warning("slow statement", extra=extra)
