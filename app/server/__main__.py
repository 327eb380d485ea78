"""`python -m app.server`: gunicorn, with every line it can write as JSON on stdout.

Unlike the bare `gunicorn` command it reads the settings first: gunicorn converts `WEB_CONCURRENCY`
while it is imported, and a bad value would end in its traceback.
"""

import importlib
import sys

from app.core.config import load_settings
from app.core.logs import log_config
from app.server.streams import capture_stderr


def main() -> None:
    """Serve `app.main:app`, or what the arguments name; they are those of `gunicorn`."""
    settings = load_settings()
    capture_stderr(log_config(settings))
    if len(sys.argv) == 1:
        sys.argv.append("app.main:app")
    importlib.import_module("gunicorn.app.wsgiapp").run(prog="gunicorn")


if __name__ == "__main__":
    main()
