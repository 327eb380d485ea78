"""`python -m app.server`: gunicorn, with all output as JSON on stdout.

Unlike the `gunicorn` command it reads the settings first: gunicorn converts `WEB_CONCURRENCY` while it is imported, and
an invalid value would end in a traceback.
"""

import importlib
import os
import signal
import sys

# Process 1 of a container ignores signals without a handler, and gunicorn sets its own after a second of imports. A
# container that is stopped meanwhile would not react until it is killed. An exception would be lost where it interrupts
# a callback of the import system, or a library that suppresses every exception.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

from app.core.config import load_settings  # noqa: E402
from app.core.observability.logs import log_config  # noqa: E402
from app.server.stderr_capture import capture_stderr  # noqa: E402


def main() -> None:
    """Serve `app.main:app`, or the app that the arguments name; they are those of `gunicorn`."""
    settings = load_settings()
    capture_stderr(log_config(settings))
    if len(sys.argv) == 1:
        sys.argv.append("app.main:app")
    importlib.import_module("gunicorn.app.wsgiapp").run(prog="gunicorn")


if __name__ == "__main__":
    main()
