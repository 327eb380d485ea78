"""`DB` in every kind of handler."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fastapi import WebSocket
from sqlalchemy import Connection, text
from starlette.testclient import TestClient

from app.core.database import DB, batched_read, read
from tests.conftest import MakeSettings
from tests.sample.app import create_app
from tests.support.errors import assert_error


@read
def answer(connection: Connection) -> int:
    """Read a number."""
    number: int = connection.execute(text("SELECT 42")).scalar_one()
    return number


@batched_read
def echo(connection: Connection, questions: Sequence[int]) -> Sequence[int]:
    """Answer with the questions."""
    connection.execute(text("SELECT 1"))
    return questions


def synchronous(db: DB, batched: bool = False) -> int:  # noqa: FBT001, FBT002 - a query parameter
    """Use the store in a thread of the pool."""
    return asyncio.run(echo(db, 42) if batched else answer(db))


async def websocket(socket: WebSocket, db: DB) -> None:
    """Send what the store answers."""
    await socket.accept()
    await socket.send_json(await answer(db))
    await socket.close()


def test_a_websocket_uses_the_store(make_settings: MakeSettings) -> None:
    app = create_app(make_settings())
    app.add_api_websocket_route("/answer", websocket)

    with TestClient(app) as client, client.websocket_connect("/answer") as socket:
        assert socket.receive_json() == 42


@pytest.mark.parametrize("batched", [False, True])
def test_a_handler_that_is_not_async_is_an_error_at_once(
    make_settings: MakeSettings,
    logs: Callable[[], list[dict[str, Any]]],
    batched: bool,  # noqa: FBT001 - of both ways to run
) -> None:
    app = create_app(make_settings())
    app.add_api_route("/answer", synchronous)

    with TestClient(app) as client:
        response = client.get("/answer", params={"batched": batched})

    assert_error(response, 500, "INTERNAL_ERROR")
    assert "a handler that uses the database is `async def`" in str(logs())
