"""Every way in which another service fails, against a real server on loopback."""

import asyncio
import contextlib
import gzip
import logging
import random
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Annotated, Any

import httpx2
import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel, ConfigDict, Field

from app.core.client import Downstream, circuit_breaker, client, new_pool, retry
from app.core.client.retry import RetryBudget, seconds_of
from app.core.errors import DownstreamError, DownstreamTimeout
from app.core.observability.trace_id import set_trace_id
from tests.support.downstream import (
    Answer,
    Stub,
    after,
    cut_in_body,
    drip,
    gzip_bomb,
    hang,
    hang_up,
    head,
    json_reply,
    raw,
    reply,
    reset,
    reset_in_body,
    slow,
    stub_service,
)

pytestmark = pytest.mark.anyio


class Level(BaseModel):
    """What the calls of these tests expect."""

    model_config = ConfigDict(strict=True)

    quantity: Annotated[int, Field(ge=0, le=2**63 - 1)]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_service() as stub:
        yield stub


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx2.AsyncClient]:
    monkeypatch.setattr(client, "_CONNECT_TIMEOUT", 30.0)
    async with new_pool() as pool:
        yield pool


@pytest.fixture
def service(stub: Stub, pool: httpx2.AsyncClient) -> Downstream:
    """Call the stub with a deadline that a busy machine keeps."""
    return Downstream("stub", stub.url, pool, deadline=30.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between tries."""
    monkeypatch.setattr(retry, "_backoff", lambda _: 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, service: Downstream) -> float:
    """Give up earlier than the service would."""
    monkeypatch.setattr(service, "_deadline", 2.0)
    return 2.0


async def ask(service: Downstream) -> int | None:
    level = await service.get("/stock/7", Level)
    return level.quantity if level else None


async def fail(service: Downstream) -> None:
    with pytest.raises((DownstreamError, DownstreamTimeout)):
        await ask(service)


async def asked(stub: Stub) -> None:
    """Wait until the other service has been asked."""
    async with asyncio.timeout(60):
        while not stub.tries:  # noqa: ASYNC110 - another thread sees it
            await asyncio.sleep(0.01)


def counted(outcome: str, service: str = "stub") -> float:
    return REGISTRY.get_sample_value("downstream_requests_total", {"service": service, "outcome": outcome}) or 0.0


def state() -> float | None:
    return REGISTRY.get_sample_value("downstream_breaker_state", {"service": "stub"})


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


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


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_service_that_is_busy_is_asked_again(stub: Stub, service: Downstream, status: int) -> None:
    stub.answer(reply(status), reply(status), json_reply({"quantity": 3}))
    assert await ask(service) == 3
    assert stub.tries == 3


@pytest.mark.parametrize("broken", [reset, reset_in_body, cut_in_body, hang_up])
@pytest.mark.usefixtures("quick")
async def test_a_broken_connection_is_made_again(stub: Stub, service: Downstream, broken: Answer) -> None:
    stub.answer(broken, json_reply({"quantity": 3}))
    assert await ask(service) == 3
    before = counted("connection_error")
    stub.answer(broken)
    with pytest.raises(DownstreamError):
        await ask(service)
    assert stub.tries == 3
    assert counted("connection_error") == before + 1


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


async def test_a_read_that_times_out_is_not_tried_again(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_timeout", httpx2.Timeout(30, read=0.1))
    stub.answer(hang)
    with pytest.raises(DownstreamTimeout):
        await ask(service)
    assert stub.tries == 1


async def test_a_body_that_drips_ends_at_the_deadline(stub: Stub, pool: httpx2.AsyncClient) -> None:
    stub.answer(drip)
    started = time.monotonic()
    with pytest.raises(DownstreamTimeout):
        await ask(Downstream("stub", stub.url, pool))
    assert client.DEADLINE - 0.1 < time.monotonic() - started < 30
    assert client.DEADLINE <= 2.0


async def test_the_deadline_holds_over_all_tries(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_deadline", 0.5)
    stub.answer(slow(0.3, reply(503)))
    with pytest.raises((DownstreamError, DownstreamTimeout)):
        await ask(service)
    assert stub.tries < retry.MAX_TRIES


@pytest.mark.parametrize(("status", "seconds"), [(429, 1), (503, None)])
@pytest.mark.usefixtures("quick")
async def test_retry_after_is_honoured(stub: Stub, service: Downstream, status: int, seconds: int | None) -> None:
    # A date has no fractions: 1.9 s from now is at least 0.9 s from now.
    date = http_date(1.9)
    stub.answer(reply(status, retry_after=seconds or date), json_reply({"quantity": 3}))
    started = time.monotonic()
    assert await ask(service) == 3
    assert time.monotonic() - started >= (seconds or 0)
    assert seconds or datetime.now(UTC) >= parsedate_to_datetime(date)


@pytest.mark.parametrize("retry_after", ["300", "9" * 5000, http_date(3600)], ids=["seconds", "endless", "date"])
async def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once(
    stub: Stub, service: Downstream, retry_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_deadline", 120.0)
    stub.answer(reply(503, retry_after=retry_after))
    started = time.monotonic()
    with pytest.raises(DownstreamError):
        await ask(service)
    assert time.monotonic() - started < 60, "it did not wait for the deadline"
    assert stub.tries == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        ("1" * 9, 111_111_111.0),
        ("1" * 5000, float("inf")),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 0.0),
        *[
            (bad, None)
            for bad in ("", "-1", "1.5", "soon", "\u0661", "1, 2", "Sun, 06 Nov 99999999999999 08:49:37 GMT")
        ],
        ("Sun, 06 Nov 1994 08:49:37 +9999999999", None),
    ],
)
async def test_retry_after_is_read_as_the_rfc_has_it(value: str | None, seconds: float | None) -> None:
    assert seconds_of(value) == seconds


async def test_the_wait_between_tries_is_random_and_grows(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []
    here, uniform = threading.get_ident(), random.uniform

    def highest(low: float, high: float) -> float:
        if threading.get_ident() != here:
            return uniform(low, high)  # of a periodic job that another test has left behind
        asked.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", highest)
    stub.answer(reply(503))
    started = time.monotonic()
    await fail(service)
    assert asked == [(0, retry.FIRST_BACKOFF), (0, 2 * retry.FIRST_BACKOFF), (0, 4 * retry.FIRST_BACKOFF)]
    assert time.monotonic() - started > 3 * retry.FIRST_BACKOFF


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


@pytest.mark.usefixtures("quick")
async def test_the_breaker_opens_tries_once_and_closes(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "COOL_DOWN", 600.0)
    assert state() == circuit_breaker.State.CLOSED
    stub.answer(reply(500))
    for _ in range(circuit_breaker.FAILURES_TO_OPEN):
        await fail(service)
    assert (stub.tries, state()) == (circuit_breaker.FAILURES_TO_OPEN, circuit_breaker.State.OPEN)

    before = counted("breaker_open")
    with pytest.raises(DownstreamError) as refused:
        await ask(service)
    assert 300 < int((refused.value.headers or {})["Retry-After"]) <= 600
    assert (stub.tries, counted("breaker_open")) == (circuit_breaker.FAILURES_TO_OPEN, before + 1)

    monkeypatch.setattr(circuit_breaker, "COOL_DOWN", 0.0)
    stub.answer(slow(0.1, reply(503)))
    await asyncio.gather(*(fail(service) for _ in range(20)))
    assert (stub.tries, state()) == (1, circuit_breaker.State.OPEN)  # one trial, not retried

    stub.answer(slow(0.1, json_reply({"quantity": 3})))
    answers = await asyncio.gather(*(ask(service) for _ in range(20)), return_exceptions=True)
    assert answers.count(3) == 1
    assert (stub.tries, state()) == (1, circuit_breaker.State.CLOSED)
    assert await asyncio.gather(*(ask(service) for _ in range(20))) == [3] * 20


async def test_a_trial_that_is_cancelled_does_not_block_the_next(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.answer(reply(500))
    for _ in range(circuit_breaker.FAILURES_TO_OPEN):
        await fail(service)
    monkeypatch.setattr(circuit_breaker, "COOL_DOWN", 0.0)
    stub.answer(hang)
    trial = asyncio.create_task(ask(service))
    await asked(stub)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    stub.answer(json_reply({"quantity": 3}))
    assert await ask(service) == 3


async def test_one_success_between_failures_keeps_the_breaker_closed(stub: Stub, service: Downstream) -> None:
    for _ in range(3):
        stub.answer(reply(500))
        for _ in range(circuit_breaker.FAILURES_TO_OPEN - 1):
            await fail(service)
        stub.answer(json_reply({"quantity": 3}))
        assert await ask(service) == 3


@pytest.mark.parametrize("answer", [reply(400), reply(429, retry_after=60), reply(302), reply(200, b"bad")])
async def test_a_service_that_answers_is_not_down(stub: Stub, service: Downstream, answer: Answer) -> None:
    stub.answer(answer)
    for _ in range(3 * circuit_breaker.FAILURES_TO_OPEN):
        await fail(service)
    assert stub.tries == 3 * circuit_breaker.FAILURES_TO_OPEN


async def test_what_began_before_the_breaker_opened_does_not_close_it(stub: Stub, service: Downstream) -> None:
    opened = threading.Event()
    stub.answer(after(opened, json_reply({"quantity": 3})), reply(500))
    early = asyncio.create_task(ask(service))
    await asked(stub)
    for _ in range(circuit_breaker.FAILURES_TO_OPEN):
        await fail(service)
    opened.set()
    assert await early == 3
    assert state() == circuit_breaker.State.OPEN


@pytest.mark.usefixtures("quick")
async def test_an_outage_does_not_multiply_the_load(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "FAILURES_TO_OPEN", 10**6)
    monkeypatch.setattr(retry, "BUDGET_RATE", 0.0)
    stub.answer(reply(503))
    calls = 60
    for _ in range(calls):
        await fail(service)
    assert calls + retry.BUDGET_SIZE < stub.tries <= calls * (1 + retry.BUDGET_RATIO) + retry.BUDGET_SIZE


async def test_the_budget_fills_with_time_and_never_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = RetryBudget()
    assert [budget.spend() for _ in range(12)] == [True] * 10 + [False] * 2
    now = 1.0
    assert [budget.spend() for _ in range(2)] == [True, False]
    now = 1000.0
    assert [budget.spend() for _ in range(12)] == [True] * 10 + [False] * 2


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


class Order(BaseModel):
    """What the writing calls of these tests send."""

    quantity: int = 1
    note: str = "none"


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


@pytest.mark.usefixtures("quick")
async def test_only_a_write_with_a_key_is_repeated(stub: Stub, service: Downstream) -> None:
    for failure in (reset, reply(503), hang_up):
        stub.answer(failure, json_reply({"quantity": 3}, 201))
        with pytest.raises(DownstreamError):
            await service.post("/orders", Level, Order())
        assert stub.tries == 1

        stub.answer(failure, json_reply({"quantity": 3}, 201))
        level = await service.post("/orders", Level, Order(quantity=3), idempotency_key="order-17")
        assert level is not None
        first, second = stub.received
        assert (first.method, first.body) == ("POST", b'{"quantity":3,"note":"none"}') == (second.method, second.body)
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == "order-17"


async def test_each_service_has_its_deadline(stub: Stub, pool: httpx2.AsyncClient) -> None:
    stub.answer(slow(0.5, json_reply({"quantity": 3})))
    with pytest.raises(DownstreamTimeout):
        await Downstream("hasty", stub.url, pool, deadline=0.1).get("/stock/7", Level)
    stub.answer(slow(2.2, json_reply({"quantity": 3})))
    level = await Downstream("patient", stub.url, pool, deadline=60.0).get("/stock/7", Level)
    assert level is not None
