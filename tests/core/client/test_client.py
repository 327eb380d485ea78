"""Every way in which another service fails, against a real server on loopback."""

import asyncio
import contextlib
import gzip
import logging
import re
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY

from app.core.client import Downstream, circuit_breaker, client, new_pool
from app.core.errors import DownstreamError, DownstreamTimeout
from app.core.observability.trace_id import set_trace_id
from tests.core.client.conftest import Level, Order, ask, counted, fail
from tests.support.downstream import (
    Answer,
    Stub,
    drip,
    gzip_bomb,
    hang,
    head,
    json_reply,
    raw,
    reply,
    slow,
)

pytestmark = pytest.mark.anyio


async def test_an_answer_is_read(stub: Stub, service: Downstream) -> None:
    before = counted("ok")
    assert await ask(service) == 12
    assert stub.received[0].path == "/stock/7"
    assert stub.received[0].headers["accept"] == "application/json"
    assert counted("ok") == before + 1


async def test_the_base_url_may_have_a_path_and_a_slash(stub: Stub, pool: httpx2.AsyncClient) -> None:
    assert await ask(Downstream("stub", f"{stub.url}/inventory/v1/", pool)) == 12
    assert stub.received[0].path == "/inventory/v1/stock/7"


async def test_a_404_is_an_answer(stub: Stub, service: Downstream) -> None:
    stub.answer(reply(404, b"no such thing"))
    for _ in range(circuit_breaker.FAILURES_TO_OPEN + 1):
        assert await ask(service) is None
    assert stub.tries == circuit_breaker.FAILURES_TO_OPEN + 1
    assert len({request.connection for request in stub.received}) == 1


async def test_a_refused_connection_is_an_error(pool: httpx2.AsyncClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and not listening: refused, and nobody else's
        service = Downstream("stub", f"http://127.0.0.1:{closed.getsockname()[1]}", pool)
        before = counted("connection_error")
        with pytest.raises(DownstreamError):
            await ask(service)
    assert counted("connection_error") == before + 1


async def test_a_connection_that_is_never_made_ends_with_a_timeout(
    pool: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def swallow(*_args: Any, **_more: Any) -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(60)

    monkeypatch.setattr("anyio.connect_tcp", swallow)
    monkeypatch.setattr(client, "_CONNECT_TIMEOUT", 0.1)
    started = time.monotonic()
    with pytest.raises(DownstreamTimeout):
        await ask(Downstream("stub", "http://127.0.0.1:9", pool, deadline=50.0))
    assert tries == 3
    assert time.monotonic() - started < 30


async def test_any_other_status_is_an_error_at_once(stub: Stub, pool: httpx2.AsyncClient) -> None:
    for status in (201, 204, 206, 301, 302, 307, 400, 401, 403, 409, 410, 418, 500, 501, 599):
        stub.answer(reply(status, location=f"{stub.url}/elsewhere"), json_reply({"quantity": 3}))
        before = counted("http_error")
        with pytest.raises(DownstreamError):
            await ask(Downstream("stub", stub.url, pool))
        assert [request.path for request in stub.received] == ["/stock/7"], status
        assert counted("http_error") == before + 1, status


async def test_a_redirect_to_nowhere_is_an_error_at_once(stub: Stub, service: Downstream) -> None:
    for location in ("http://[bad", "ftp://elsewhere", "", "//"):
        stub.answer(reply(302, location=location))
        with pytest.raises(DownstreamError):
            await ask(service)
        assert stub.tries == 1, location


@pytest.mark.parametrize("answer", [hang, raw(head(200, content_length=5)), raw(b"HTTP/1.1 2")])
@pytest.mark.usefixtures("impatient")
async def test_a_service_that_hangs_is_a_timeout_and_is_not_asked_again(
    stub: Stub, service: Downstream, answer: Answer
) -> None:
    async def then_hang(writer: asyncio.StreamWriter) -> None:
        await answer(writer)
        await hang(writer)

    stub.answer(then_hang)
    before = counted("timeout")
    with pytest.raises(DownstreamTimeout):
        await ask(service)
    assert stub.tries == 1
    assert counted("timeout") == before + 1


async def test_a_body_that_drips_ends_at_the_deadline(stub: Stub, pool: httpx2.AsyncClient) -> None:
    stub.answer(drip)
    started = time.monotonic()
    with pytest.raises(DownstreamTimeout):
        await ask(Downstream("stub", stub.url, pool))
    assert client.DEADLINE - 0.1 < time.monotonic() - started < 30
    assert client.DEADLINE <= 2.0


async def test_an_answer_that_is_none_is_an_error_at_once(stub: Stub, service: Downstream) -> None:
    bodies = (
        *(b"", b"null", b"[]", b"{}", b"12", b"<html>", b'{"quantity": 1', b'{"quantity": 1} x', b"\xff\xfe"),
        *(b'{"quantity": %s}' % value for value in (b"true", b"1.0", b"-1", b'"1"', b"null", b"NaN", b"1e2")),
        *(b'{"quantity": %d}' % 2**63, b'{"quantity": %s}' % (b"9" * 5000), b"[" * 100_000),
    )
    for body in bodies:
        stub.answer(reply(200, body))
        before = counted("invalid_response")
        with pytest.raises(DownstreamError):
            await ask(service)
        assert stub.tries == 1, body[:80]
        assert counted("invalid_response") == before + 1, body[:80]


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b'{"quantity": 1}' + b" " * 5 * 1024 * 1024),
        raw(
            head(200, transfer_encoding="chunked")
            + b'F\r\n{"quantity": 1}\r\n100000\r\n%b\r\n0\r\n\r\n' % (b" " * 2**20)
        ),
        reply(200, b'{"quantity": 1}', content_encoding="gzip"),
        reply(200, b'{"quantity": 1}', content_encoding="gzip, " * 6 + "gzip"),
    ],
)
async def test_a_body_too_long_or_undecodable_is_an_error_at_once(
    stub: Stub, service: Downstream, answer: Answer
) -> None:
    stub.answer(answer)
    before = counted("invalid_response")
    with pytest.raises(DownstreamError):
        await ask(service)
    assert stub.tries == 1
    assert counted("invalid_response") == before + 1


async def test_very_small_chunks_do_not_hold_the_event_loop(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = most = 0
    original = httpx2.Response.aiter_bytes

    async def counting(response: httpx2.Response) -> AsyncIterator[bytes]:
        nonlocal chunks, most
        async for chunk in original(response):
            chunks += 1
            most = max(most, chunks)
            yield chunk

    async def iterate() -> None:
        nonlocal chunks
        while True:
            chunks = 0
            await asyncio.sleep(0)

    monkeypatch.setattr(httpx2.Response, "aiter_bytes", counting)
    stub.answer(raw(head(200, transfer_encoding="chunked") + b"1\r\n \r\n" * 20_000))
    iterating = asyncio.create_task(iterate())
    with contextlib.suppress(DownstreamError, DownstreamTimeout):
        await ask(service)
    iterating.cancel()
    assert 0 < most < 1000


async def test_a_compressed_answer_is_read(stub: Stub, service: Downstream) -> None:
    stub.answer(reply(200, gzip.compress(b'{"quantity": 3}'), content_encoding="gzip"))
    assert await ask(service) == 3


async def test_a_compressed_bomb_is_not_unpacked(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = 0
    original = httpx2.Response.aiter_bytes

    async def counting(response: httpx2.Response) -> AsyncIterator[bytes]:
        nonlocal unpacked
        async for chunk in original(response):
            unpacked += len(chunk)
            yield chunk

    monkeypatch.setattr(httpx2.Response, "aiter_bytes", counting)
    stub.answer(gzip_bomb(megabytes=50))
    with pytest.raises(DownstreamError):
        await ask(service)
    assert 0 < unpacked <= 3 * 1024 * 1024


async def test_a_call_that_fails_leaves_no_connection_behind(
    stub: Stub, service: Downstream, pool: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_deadline", 0.4)
    stub.answer(drip)
    await asyncio.gather(*(fail(service) for _ in range(20)))
    assert pool._transport._pool.connections == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("trace_id", ["0af7651916cd43dd8448eb211c80319c", "req-7", "0" * 32, "A" * 32, "x" * 128])
async def test_every_try_carries_the_trace(stub: Stub, service: Downstream, trace_id: str) -> None:
    set_trace_id(trace_id)
    stub.answer(reply(503), json_reply({"quantity": 3}))
    await ask(service)
    parents = [re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-00", r.headers["traceparent"]) for r in stub.received]
    traces, spans = zip(*(parent.groups() for parent in parents if parent), strict=True)
    assert [request.headers["x-trace-id"] for request in stub.received] == [trace_id] * 2
    assert len(spans) == len(set(spans)) == 2
    assert len(set(traces)) == 1
    assert traces[0] != "0" * 32
    assert (traces[0] == trace_id) == (trace_id == "0af7651916cd43dd8448eb211c80319c")


async def test_the_environment_names_no_proxy(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with new_pool() as pool:
        assert await ask(Downstream("stub", stub.url, pool)) == 12


async def test_cookies_are_not_kept(stub: Stub, service: Downstream) -> None:
    stub.answer(reply(200, b'{"quantity": 3}', set_cookie="session=one-clients; Path=/"))
    assert [await ask(service), await ask(service)] == [3, 3]
    assert all("cookie" not in request.headers for request in stub.received)


async def test_connections_are_used_again_and_bounded(stub: Stub, pool: httpx2.AsyncClient) -> None:
    service = Downstream("stub", stub.url, pool, deadline=60.0)
    stub.answer(slow(0.02, json_reply({"quantity": 3})))
    calls = 3 * client._MAX_CONNECTIONS
    assert await asyncio.gather(*(ask(service) for _ in range(calls))) == [3] * calls
    assert len({request.connection for request in stub.received}) <= client._MAX_CONNECTIONS


async def test_a_failure_is_logged_without_the_url(
    stub: Stub, service: Downstream, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("app.core.client.client").propagate = True
    stub.answer(reply(500, b"their secret"))
    with caplog.at_level("WARNING"), pytest.raises(DownstreamError) as failed:
        await ask(service)
    (line,) = [record for record in caplog.records if record.name == "app.core.client.client"]
    fields = line.__dict__
    assert [fields[name] for name in ("downstream", "outcome", "status")] == ["stub", "http_error", 500]
    assert fields["duration_ms"] > 0
    port = stub.url.rpartition(":")[2]
    for text in (str(fields), failed.value.message):
        assert port not in text
        assert "secret" not in text


async def test_durations_are_those_of_whole_calls(stub: Stub, service: Downstream) -> None:
    def observed(suffix: str) -> float:
        return REGISTRY.get_sample_value(f"downstream_request_duration_seconds_{suffix}", {"service": "stub"}) or 0.0

    stub.answer(slow(0.1, reply(503)), slow(0.1, json_reply({"quantity": 3})))
    count, total = observed("count"), observed("sum")
    await ask(service)
    assert observed("count") == count + 1
    assert observed("sum") >= total + 0.2


async def test_a_body_is_sent_as_json_with_its_method(stub: Stub, service: Downstream) -> None:
    stub.answer(json_reply({"quantity": 3}, 201), json_reply({"quantity": 3}), json_reply({"quantity": 3}), reply(204))
    body = Order(quantity=3)

    for call in (service.post, service.put, service.patch):
        level = await call("/orders", Level, body)
        assert level is not None
        assert level.quantity == 3
    assert await service.delete("/orders/1") is True
    stub.answer(reply(404))
    assert await service.delete("/orders/2") is False
    assert await service.post("/orders", Level, body) is None


async def test_each_service_has_its_deadline(stub: Stub, pool: httpx2.AsyncClient) -> None:
    stub.answer(slow(0.5, json_reply({"quantity": 3})))
    with pytest.raises(DownstreamTimeout):
        await Downstream("hasty", stub.url, pool, deadline=0.1).get("/stock/7", Level)
    stub.answer(slow(2.2, json_reply({"quantity": 3})))
    level = await Downstream("patient", stub.url, pool, deadline=60.0).get("/stock/7", Level)
    assert level is not None
