"""Routes that the tests add to an app."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Connection
from starlette.testclient import TestClient

from app.core.database import DB
from app.core.database.database import Mode


def serve(client: TestClient, path: str, work: Callable[[Connection], Any], mode: Mode = Mode.WRITE) -> None:
    """Have a client's app answer `GET path` with what `work` reads; the app is to be the test's own."""
    app = client.app
    assert isinstance(app, FastAPI)

    async def endpoint(db: DB) -> None:
        await db.run(mode, work)

    app.add_api_route(path, endpoint, methods=["GET"])
