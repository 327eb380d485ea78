"""A tiny ASGI app that shows the server's behaviour."""

import asyncio
import gc
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from app.core.lifecycle import EARLY_RETRY, REJECT, REJECTED, Rejection, lifecycle
from app.server import server
from app.server.protocol import throttle, timeouts

if os.environ.get("TEST_BROKEN"):
    raise RuntimeError("broken on purpose")
# The real timeouts would make the tests slow: TEST_HEAD_SECONDS sets HEAD_SECONDS, and so on.
for _module in (timeouts, server):
    for _name in vars(_module).keys() & {name.removeprefix("TEST_") for name in os.environ}:
        setattr(_module, _name, float(os.environ[f"TEST_{_name}"]))
time.sleep(float(os.environ.get("TEST_BOOT_SECONDS", "0")))
# What waits for a file of the test to be there: the import of this module, and requests for /hold.
_BOOT, _RELEASE = (Path(os.environ.get(name, "/")) for name in ("TEST_BOOT_FILE", "TEST_RELEASE_FILE"))
while not _BOOT.exists():
    time.sleep(0.02)
_busy = 0
"""Requests in progress, of which `/pid` tells."""
_rejected: Counter[float] = Counter()
"""Rejected requests of each iteration of the event loop, by its time."""


async def _answer(send: Send, status: int, body: bytes, *fields: tuple[bytes, bytes]) -> None:
    headers = [(b"content-length", str(len(body)).encode()), *fields]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _reject(scope: Scope) -> Rejection | None:
    if scope["path"] != "/rejected":
        return None
    _rejected[asyncio.get_running_loop().time()] += 1
    return [(b"content-length", b"0")], b""


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"][REJECT] = _reject
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await asyncio.sleep(float(os.environ.get("TEST_ENDING_SECONDS", "0")))
    await send({"type": "lifespan.shutdown.complete"})


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the first part of the path."""
    global _busy  # noqa: PLW0603 - one event loop
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
        return
    _busy += 1
    try:
        await _respond(scope, receive, send)
    finally:
        _busy -= 1


async def _respond(scope: Scope, receive: Receive, send: Send) -> None:
    _, name, *rest = scope["path"].split("/")
    if name == "ready":
        await _answer(send, 503 if lifecycle.draining else 200, b"")
    elif name == "echo":
        await _answer(send, 200, await _body(receive))
    elif name == "big":
        await _answer(send, 200, b"x" * 50_000_000)
    elif name == "stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)
    elif name == "early":
        scope.update({REJECTED: True} if "rejected" in rest else {})
        await _answer(send, 413, b"")
    elif name == "sleep":
        await asyncio.sleep(float(rest[0]))
        await _answer(send, 200, b"slept", *[(b"connection", b"close")] * ("last" in rest))
    elif name == "hold":
        while not _RELEASE.exists():  # noqa: ASYNC110 - another process creates it
            await asyncio.sleep(0.02)
        await _answer(send, 200, b"held")
    elif name == "block":
        await asyncio.to_thread(time.sleep, float(rest[0]))
        await _answer(send, 200, b"blocked")
    else:
        state: dict[str, Any] = {"pid": os.getpid(), "slot": os.environ.get("METRICS_SLOT"), "busy": _busy - 1}
        state["scopes"] = sum(type(some) is dict and "raw_path" in some for some in gc.get_objects())
        state["early_retry"] = EARLY_RETRY in scope
        state["paused"] = len(throttle._paused) + len(throttle._resumed)
        state["rejected_at_once"] = max(_rejected.values(), default=0)
        await _answer(send, 200, json.dumps(state).encode())
