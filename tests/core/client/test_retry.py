"""What is asked again, when, and how often."""

import random
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
import pytest

from app.core.client import Downstream, circuit_breaker, retry
from app.core.client.retry import RetryBudget, seconds_of
from app.core.errors import DownstreamError, DownstreamTimeout
from tests.core.client.conftest import Level, Order, ask, counted, fail, http_date
from tests.support.downstream import (
    Answer,
    Stub,
    cut_in_body,
    hang,
    hang_up,
    json_reply,
    reply,
    reset,
    reset_in_body,
    slow,
)

pytestmark = pytest.mark.anyio


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


async def test_a_read_that_times_out_is_not_tried_again(
    stub: Stub, service: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_timeout", httpx2.Timeout(30, read=0.1))
    stub.answer(hang)
    with pytest.raises(DownstreamTimeout):
        await ask(service)
    assert stub.tries == 1


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
