"""gunicorn's settings for a service that logs the first call of each hook: its name, and the module that called it.

The classes are changed in the master, and the workers that it forks inherit that.
"""

import functools
import logging
import sys
from typing import Any

import app.server.gunicorn_conf as _settings
from app.server.gunicorn_conf import *  # noqa: F403 - as gunicorn.conf.py does
from app.server.protocol.closing import ClosingProtocol
from app.server.protocol.http import ServiceProtocol
from app.server.protocol.input import InputProtocol
from app.server.protocol.responses import JoinedHead
from app.server.protocol.websocket import ServiceWebSocket
from app.server.server import ServiceServer
from app.server.worker import ServiceWorker
from tests.support.overrides import overridden

CLASSES = (ServiceWorker, ServiceServer, ServiceProtocol, InputProtocol, ServiceWebSocket, JoinedHead)
# `pre_exec` runs in a process that logs nothing any more; a test with SIGUSR2 shows its effect (test_replacement.py).
GUNICORN_HOOKS = ("when_ready", "pre_fork", "post_fork", "child_exit")

_log = logging.getLogger("hooks")
_seen: set[str] = set()


def hooks_of(owner: type) -> list[str]:
    """List the methods of a class that libraries call."""
    return ["close", "write"] if owner is JoinedHead else overridden(owner)


def logged(hook: str, function: Any) -> Any:
    """Wrap a hook so that its first call in a process is logged."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        caller = sys._getframe(1).f_globals["__name__"]
        if hook not in _seen:
            _seen.add(hook)
            _log.info("hook called", extra={"hook": hook, "caller_module": caller})
        return function(*arguments, **named)

    return call


for _owner in CLASSES:
    for _name in hooks_of(_owner):
        if _owner is not JoinedHead or _name == "write":  # `close` is set for each response
            setattr(_owner, _name, logged(f"{_owner.__name__}.{_name}", getattr(_owner, _name)))
ClosingProtocol.close_after_response = logged("JoinedHead.close", ClosingProtocol.close_after_response)  # type: ignore[method-assign]
for _name in GUNICORN_HOOKS:
    globals()[_name] = logged(_name, getattr(_settings, _name))
