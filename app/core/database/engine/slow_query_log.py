"""Log statements that take long: their text, never their values."""

import logging

from app.core.observability.instruments import DB_SLOW_STATEMENTS

_log = logging.getLogger(__name__)


class SlowQueryLog:
    """Logs and counts every statement that takes more than `limit` seconds, also one that fails."""

    def __init__(self, limit: float) -> None:
        self._limit = limit

    def __call__(self, _cursor: object, statement: str, seconds: float, _error: Exception | None) -> None:
        """Check a statement that has ended."""
        if seconds > self._limit:
            DB_SLOW_STATEMENTS.inc()
            extra = {"statement": " ".join(statement.split()), "duration_ms": round(seconds * 1000, 3)}
            _log.warning("slow statement", extra=extra)
