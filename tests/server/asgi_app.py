"""A tiny ASGI app that shows the server's behaviour."""

import asyncio
import json
import os
import time
from typing import Any

from starlette.types import Receive, Scope, Send

from app.core.lifecycle import lifecycle
from app.server import server
from app.server.protocol import timeouts

if os.environ.get("TEST_BROKEN"):
    raise RuntimeError("broken on purpose")
# The real timeouts would make the tests slow: TEST_HEAD_SECONDS sets HEAD_SECONDS, and so on.
for _module in (timeouts, server):
    for _name in vars(_module).keys() & {name.removeprefix("TEST_") for name in os.environ}:
        setattr(_module, _name, float(os.environ[f"TEST_{_name}"]))
time.sleep(float(os.environ.get("TEST_BOOT_SECONDS", "0")))


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
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
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
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
        await _answer(send, 413, b"")
    elif name == "sleep":
        await asyncio.sleep(float(rest[0]))
        await _answer(send, 200, b"slept")
    elif name == "block":
        await asyncio.to_thread(time.sleep, float(rest[0]))
        await _answer(send, 200, b"blocked")
    else:
        state: dict[str, Any] = {"pid": os.getpid(), "slot": os.environ.get("METRICS_SLOT")}
        await _answer(send, 200, json.dumps(state).encode())
