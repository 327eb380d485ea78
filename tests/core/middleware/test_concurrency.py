"""Requests beyond the limit."""

import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from app.core.lifecycle import REJECTED
from app.core.middleware.limits.concurrency import ConcurrencyLimitMiddleware
from app.core.middleware.request import RequestMiddleware
from app.core.middleware.route_table import RouteTable


async def _never(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    raise AssertionError("beyond the limit")


async def _receive() -> Message:
    return {"type": "http.disconnect"}


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_server_is_told_of_a_rejection_before_it_sends_the_response(method: str) -> None:
    routes = RouteTable()
    routes.attach(FastAPI())
    app = RequestMiddleware(ConcurrencyLimitMiddleware(_never, 0, 0, routes), routes)
    scope: Scope = {"type": "http", "method": method, "path": "/", "headers": [], "query_string": b""}
    sent: list[tuple[str, bool]] = []

    async def send(message: Message) -> None:
        sent.append((message["type"], REJECTED in scope))

    await app(scope, _receive, send)

    assert sent == [("http.response.start", True), ("http.response.body", True)]
