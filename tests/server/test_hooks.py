"""Every method that we override, and every hook that we give, is really called by the library that it is meant for.

An upgrade that renames one would otherwise turn our code off without a word. `pyproject.toml` limits the versions.
"""

from typing import Any

import pytest

from tests.server import hooks
from tests.server.conftest import Start
from tests.server.test_websocket import HANDSHAKE, frame
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

# The module that calls it; None where the event loop or a signal does, which are no Python modules.
CALLED_BY: dict[str, str | None] = {
    "when_ready": "gunicorn.arbiter",
    "pre_fork": "gunicorn.arbiter",
    "post_fork": "gunicorn.arbiter",
    "child_exit": "gunicorn.arbiter",
    "ServiceWorker.init_signals": "gunicorn.workers.base",
    "ServiceWorker.load_wsgi": "gunicorn.workers.base",
    "ServiceWorker._serve": "uvicorn_worker._workers",
    "ServiceServer.capture_signals": "uvicorn.server",
    "ServiceServer.handle_exit": None,
    "ServiceServer.startup": "uvicorn.server",
    "ServiceServer.on_tick": "uvicorn.server",
    "ServiceServer.shutdown": "uvicorn.server",
    "ServiceProtocol.connection_made": None,
    "ServiceProtocol.connection_lost": None,
    "InputProtocol.data_received": None,
    "ServiceProtocol.pause_writing": None,
    "ServiceProtocol.resume_writing": None,
    "InputProtocol.on_body": None,
    "InputProtocol.on_message_begin": None,
    "InputProtocol.on_headers_complete": None,
    "ServiceProtocol.on_message_complete": None,
    "InputProtocol.on_message_complete": "app.server.protocol.http",
    "InputProtocol._should_upgrade": "app.server.protocol.input",  # and by uvicorn, in what it calls then
    "ServiceProtocol._start_asgi_task": "uvicorn.protocols.http.httptools_impl",
    "ServiceProtocol.on_response_complete": "uvicorn.protocols.http.httptools_impl",
    "JoinedHead.write": "uvicorn.protocols.http.httptools_impl",
    "JoinedHead.close": "uvicorn.protocols.http.httptools_impl",
    "ServiceWebSocket.data_received": "uvicorn.protocols.http.httptools_impl",
    "ServiceWebSocket.handle_connect": "uvicorn.protocols.websockets.websockets_sansio_impl",
    "ServiceWebSocket.handle_cont": "uvicorn.protocols.websockets.websockets_sansio_impl",
    "ServiceWebSocket.send_receive_event_to_app": "uvicorn.protocols.websockets.websockets_sansio_impl",
    "ServiceWebSocket.run_asgi": "uvicorn.protocols.websockets.websockets_sansio_impl",
    "ServiceWebSocket.connection_lost": None,
    "ServiceWebSocket.keepalive_timeout": None,
    "ServiceWebSocket.pause_writing": None,
    "ServiceWebSocket.resume_writing": None,
    "ServiceWebSocket.receive": "app.core.middleware.websocket",
    "ServiceWebSocket.send": "app.core.middleware.websocket",
}


def test_every_override_is_in_the_table() -> None:
    names = {f"{owner.__name__}.{name}" for owner in hooks.CLASSES for name in hooks.hooks_of(owner)}
    assert names | set(hooks.GUNICORN_HOOKS) == CALLED_BY.keys()


def first_calls(service: Service) -> dict[str, Any]:
    lines = [line for line in service.lines() if line["message"] == "hook called"]
    return {line["hook"]: line["caller_module"] for line in reversed(lines)}


def use_http(service: Service) -> None:
    connection = service.connect()
    connection.send(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert connection.answer().status == 200
    connection = service.connect()
    connection.send(b"POST /pid HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    assert connection.answer().status == 405
    slow = service.connect()
    slow.ask("/big")
    eventually(lambda: "ServiceProtocol.pause_writing" in first_calls(service))
    assert len(slow.answer().body) == 20_000_000


def use_websockets(service: Service) -> None:
    connection = service.connect()
    connection.send(HANDSHAKE % b"/ws" + b"\r\n" + frame(1, b"h", last=False) + frame(0, b"i"))
    assert connection.head().status == 101
    assert connection.read(4) == b"\x81\x02hi"
    unread = service.connect()
    unread.send(HANDSHAKE % b"/ws/flood" + b"\r\n")
    assert unread.head().status == 101
    eventually(lambda: "ServiceWebSocket.pause_writing" in first_calls(service))
    unread.read(20_000_000)
    eventually(lambda: "ServiceWebSocket.keepalive_timeout" in first_calls(service))


def test_every_hook_is_called_by_its_library(start: Start) -> None:
    service = start(
        app="tests.server.stream_app:app",
        GUNICORN_CMD_ARGS="-c python:tests.server.hooks",
        SHUTDOWN_TIMEOUT=60,
        TEST_PING_SECONDS=2,
    )
    use_http(service)
    use_websockets(service)
    service.signal()
    assert service.wait() == 0
    calls = first_calls(service)
    assert calls.keys() == CALLED_BY.keys()
    assert {name: module for name, module in calls.items() if CALLED_BY[name]} == {
        name: module for name, module in CALLED_BY.items() if module
    }
