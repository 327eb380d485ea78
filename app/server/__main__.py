"""`python -m app.server`: gunicorn, with every line it can write as JSON on stdout.

Unlike the bare `gunicorn` command it reads the settings first: gunicorn converts `WEB_CONCURRENCY`
while it is imported, and a bad value would end in its traceback.
"""

import importlib
import signal
import sys

# Process 1 of a container ignores every signal that it has no handler for, and gunicorn's come only
# after a second of imports: a container stopped meanwhile would wait to be killed.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

from app.core.config import load_settings  # noqa: E402
from app.core.observability.logs import log_config  # noqa: E402
from app.server.stderr_capture import capture_stderr  # noqa: E402


def main() -> None:
    """Serve `app.main:app`, or what the arguments name; they are those of `gunicorn`."""
    settings = load_settings()
    capture_stderr(log_config(settings))
    if len(sys.argv) == 1:
        sys.argv.append("app.main:app")
    importlib.import_module("gunicorn.app.wsgiapp").run(prog="gunicorn")


if __name__ == "__main__":
    main()
