"""A service that is down is not asked."""

import asyncio
import threading

import pytest

from app.core.client import Downstream, circuit_breaker
from app.core.errors import DownstreamError
from tests.core.client.conftest import ask, asked, counted, fail, state
from tests.support.downstream import (
    Answer,
    Stub,
    after,
    hang,
    json_reply,
    reply,
    slow,
)

pytestmark = pytest.mark.anyio


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
