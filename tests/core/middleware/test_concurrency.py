"""Requests beyond the limit."""

import contextlib

import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from app.core.errors import Overloaded
from app.core.lifecycle import REJECTED, lifecycle
from app.core.middleware.limits.concurrency import ConcurrencyLimitMiddleware
from app.core.middleware.request import RequestMiddleware
from app.core.middleware.route_table import RouteTable


async def _never(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    raise AssertionError("beyond the limit")


async def _read(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    await receive()


async def _read_two(scope: Scope, receive: Receive, send: Send) -> None:
    await _read(scope, receive, send)
    await _read(scope, receive, send)


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


@pytest.mark.anyio
@pytest.mark.parametrize(("fields", "connection"), [([], []), ([(b"x-forwarded-for", b"192.0.2.1")], ["close"])])
@pytest.mark.parametrize("limit", [0, 1])
async def test_a_rejection_closes_a_connection_that_a_proxy_may_use_for_others(
    limit: int, fields: list[tuple[bytes, bytes]], connection: list[str]
) -> None:
    limiter = ConcurrencyLimitMiddleware(_read, limit, 0, RouteTable())
    sent: list[Message] = []

    async def receive() -> Message:
        limiter.in_flight += 1  # others have come first
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": fields, "query_string": b""}
    try:
        await limiter(scope, receive, send)
        headers = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    except Overloaded as error:
        headers = [(name.lower(), value) for name, value in (error.headers or {}).items()]
    assert [value for name, value in headers if name == "retry-after"] == ["1"]
    assert [value for name, value in headers if name == "connection"] == connection


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "rejected"), [(100, False), (5_000, True)])
async def test_large_bodies_leave_some_of_the_limit_to_small_ones(size: int, *, rejected: bool) -> None:
    limiter = ConcurrencyLimitMiddleware(_read, 8, 0, RouteTable())
    limiter.count(7)
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    parts: list[Message] = [{"type": "http.request", "body": bytes(size), "more_body": more} for more in (False, True)]

    async def receive() -> Message:
        return parts.pop()

    async def ignore(_: Message) -> None:
        pass

    limiter.app = _read_two
    assert lifecycle.crowded
    with pytest.raises(Overloaded) if rejected else contextlib.nullcontext():
        await limiter(scope, receive, ignore)
    limiter.count(-7)
    assert not lifecycle.crowded
