"""Logs what would be plain text on stderr.

gunicorn prints some of its failures, and Python every uncaught exception, to stderr as plain text; this service writes
only JSON, and only to stdout.
"""

import io
import logging
import logging.config
import sys
import threading
from types import TracebackType
from typing import Any, TextIO

# Characters. A traceback that is never flushed must not collect what is written after it.
_MAX_TRACEBACK = 8192

_log = logging.getLogger("stderr")


class LoggedStream(io.TextIOBase):
    """A text stream that logs what is written, one record for each line or traceback."""

    def __init__(self, fallback: TextIO) -> None:
        self._fallback = fallback
        self._text = ""
        self._logging = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the real stream's file descriptor, for child processes."""
        return self._fallback.fileno()

    def write(self, text: str) -> int:
        """Collect `text`; log a line when it ends, and a traceback when it is flushed or grows too long."""
        if self._logging:  # the log handler itself has failed, and reports that
            return self._fallback.write(text)
        self._text += text
        if text.endswith("\n") and ("Traceback (" not in self._text or len(self._text) > _MAX_TRACEBACK):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Log what was collected."""
        text, self._text = self._text.strip(), ""
        if not text or self._logging:
            return
        self._logging = True
        try:
            _log.error("%s", text)
        finally:
            self._logging = False


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    # gunicorn raises HaltServer twice when two workers fail to boot; the second is not caught.
    reason = getattr(error, "reason", None)
    if reason is not None:
        _log.critical("%s", reason)
    else:
        _log.critical("Uncaught %s", kind.__name__, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def capture_stderr(log_config: dict[str, Any]) -> None:
    """Log what goes to `sys.stderr` from now on, uncaught exceptions and warnings included.

    Parameters
    ----------
    log_config
        For `logging.config.dictConfig`; applied at once, as the first failure may come before
        gunicorn applies it.
    """
    if isinstance(sys.stderr, LoggedStream):
        return
    logging.config.dictConfig(log_config)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.stderr = LoggedStream(sys.__stderr__ or sys.stderr)
