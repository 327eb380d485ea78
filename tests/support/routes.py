"""Routes that the tests add to an app."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.core.database import Read, ReadConnection


def serve(client: TestClient, path: str, work: Callable[[ReadConnection], Any]) -> None:
    """Have a client's app answer `GET path` with what `work` reads; the app is to be the test's own."""
    app = client.app
    assert isinstance(app, FastAPI)

    async def endpoint(read: Read) -> None:
        await read(work)

    app.add_api_route(path, endpoint, methods=["GET"])
    app.state.routes.fill(app)
