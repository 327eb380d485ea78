"""gunicorn reads this file by itself: `gunicorn app.main:app`."""

from app.server.gunicorn_conf import *  # noqa: F403 - gunicorn wants the settings as names in here
