"""A tiny ASGI app that counts as the real one does, and boots in a tenth of its time."""

import os

from starlette.types import Receive, Scope, Send

from app.core.observability.instruments import HTTP_DURATION, HTTP_IN_PROGRESS, HTTP_REQUESTS, WORKER_STARTS, WORKERS


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Count a request, and name the process."""
    if scope["type"] == "lifespan":
        WORKER_STARTS.inc()
        WORKERS.set(1)
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    HTTP_IN_PROGRESS.inc()
    HTTP_REQUESTS.labels("GET", scope["path"], "200").inc()
    HTTP_DURATION.labels("GET", scope["path"]).observe(0.01)
    HTTP_IN_PROGRESS.dec()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
