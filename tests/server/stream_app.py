"""The application with streams, WebSockets and background tasks, written as FastAPI's documentation shows them."""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Body, FastAPI, Form, HTTPException, Query, Request, Response, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.core.api.shutdown import Shutdown
from app.server import server
from app.server.protocol import timeouts
from tests.sample.app import create_app

for _module in (timeouts, server):
    for _name in vars(_module).keys() & {name.removeprefix("TEST_") for name in os.environ}:
        setattr(_module, _name, float(os.environ[f"TEST_{_name}"]))

tempfile.tempdir = os.environ.get("TEST_TEMPORARY_FOLDER")
_log = logging.getLogger("streams")
_deleted: list[str] = []

app = create_app()
mounted = FastAPI()
app.mount("/mounted", mounted)


@mounted.get("/things/{thing_id}")
async def get_thing(thing_id: int) -> dict[str, int]:
    return {"thing_id": thing_id}


@app.get("/pid")
async def get_pid() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.get("/big")
async def get_big(size: int = 20_000_000) -> Response:
    return Response(bytes(size))


@app.post("/body", max_body_size=2_000_000)  # so it does not wait for its turn
async def take_body(body: Annotated[Any, Body()], size: int = 0, seconds: float = 0) -> Response:  # noqa: ARG001
    """Have the body in memory until the response is made."""
    await asyncio.sleep(seconds)
    return Response(bytes(size))


@app.post("/chat")
async def chat(body: Annotated[Any, Body()], shutdown: Shutdown) -> StreamingResponse:  # noqa: ARG001
    async def parts() -> AsyncIterator[bytes]:
        yield b"hello"
        await shutdown.wait()

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/deleted")
async def get_deleted() -> list[str]:
    return _deleted


@app.delete("/deleted/{name}")
async def delete(name: str, seconds: float = 0) -> dict[str, str]:
    _deleted.append(name)
    await asyncio.sleep(seconds)
    return {"deleted": name}


@app.get("/events", response_class=EventSourceResponse)
async def events(count: int = 1_000_000, pause: float = 3600, size: int = 0) -> AsyncIterator[ServerSentEvent]:
    """Send events without a thought about the server."""
    try:
        for number in range(count):
            yield ServerSentEvent(data="x" * size or number)
            await asyncio.sleep(pause)
    finally:
        _log.info("events ended")


@app.get("/events/none", response_class=EventSourceResponse)
async def no_events(shutdown: Shutdown) -> AsyncIterator[ServerSentEvent]:
    await shutdown.wait()
    if not shutdown.is_set():
        yield ServerSentEvent(data="never")


@app.get("/events/sync", response_class=EventSourceResponse)
def sync_events(count: int) -> Iterator[ServerSentEvent]:
    for number in range(count):
        yield ServerSentEvent(data=number)


@app.get("/events/polite", response_class=EventSourceResponse)
async def polite_events(shutdown: Shutdown) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(data="hello")
    await shutdown.wait()
    yield ServerSentEvent(data="goodbye")


@app.get("/events/polling")
async def polling_events(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        while not await request.is_disconnected():
            yield ": still there\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.get("/download")
async def download(seconds: float, *, fails: bool = False) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"first,"
        await asyncio.sleep(seconds)
        if fails:
            raise RuntimeError("no second part")
        yield b"last"

    return StreamingResponse(parts(), media_type="text/csv")


@app.post("/upload", max_body_size=10_000_000)
async def upload(file: UploadFile) -> dict[str, int]:
    return {"size": len(await file.read())}


@app.post("/raw")
async def raw(request: Request) -> dict[str, int]:
    return {"size": len(await request.body())}


@app.post("/form")
async def form(text: Annotated[str, Form()]) -> dict[str, int]:
    return {"length": len(text)}


@app.get("/background")
async def background(tasks: BackgroundTasks, seconds: float) -> dict[str, str]:
    async def work() -> None:
        await asyncio.sleep(seconds)
        _log.info("background work done")

    tasks.add_task(work)
    return {"status": "accepted"}


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())


@app.websocket("/ws/json")
async def echo_json(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_json((await websocket.receive_json())["text"])


@app.websocket("/ws/sink")
async def sink(websocket: WebSocket) -> None:
    """Receive, and do nothing."""
    await websocket.accept()
    async for _ in websocket.iter_text():
        pass


@app.websocket("/ws/polite")
async def polite(websocket: WebSocket, shutdown: Shutdown) -> None:
    await websocket.accept()
    await shutdown.wait()
    await websocket.send_text("goodbye")
    await websocket.close(1001)


@app.websocket("/ws/late")
async def late(websocket: WebSocket) -> None:
    """Accept when the client has gone."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    await websocket.accept()


@app.websocket("/ws/denied")
async def denied(websocket: WebSocket, reason: Annotated[str, Query()] = "") -> None:
    if reason:
        raise HTTPException(401, reason)
    await websocket.close()


@app.websocket("/ws/broken")
async def broken(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("broken on purpose")


@app.websocket("/ws/error/{status}")
async def error_after_accept(websocket: WebSocket, status: int) -> None:
    await websocket.accept()
    raise HTTPException(status)


@app.websocket("/ws/deaf")
async def deaf(websocket: WebSocket) -> None:
    """Never receive, and never notice that the client has gone."""
    await websocket.accept()
    try:
        await asyncio.sleep(3600)
    finally:
        _log.info("deaf ended")


@app.websocket("/ws/flood")
async def flood(websocket: WebSocket) -> None:
    """Send for as long as the client reads."""
    await websocket.accept()
    while True:
        await websocket.send_bytes(bytes(100_000))
