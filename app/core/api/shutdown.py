"""The dependency that tells a stream or a WebSocket that this process shuts down."""

import asyncio
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.core.lifecycle import SHUTDOWN


async def shutdown(connection: HTTPConnection) -> asyncio.Event:
    """Return the event that is set when the process stops accepting requests; under another server it never is."""
    state = connection.scope.get("state", {})
    event: asyncio.Event = state.get(SHUTDOWN) or asyncio.Event()
    return event


Shutdown = Annotated[asyncio.Event, Depends(shutdown)]
"""Set at a shutdown after the drain, and at a reload: a stream has a second to send a last message and return.

After that server-sent events and WebSockets are closed; other streams have until `SHUTDOWN_TIMEOUT`.

Examples
--------
>>> @router.get("/events", response_class=EventSourceResponse)
... async def events(shutdown: Shutdown) -> AsyncIterator[ServerSentEvent]:
...     while not shutdown.is_set():
...         yield ServerSentEvent(data=await next_event())
"""
