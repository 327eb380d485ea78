"""Turns of large bodies."""

import asyncio

import pytest

from app.core.errors import Overloaded
from app.core.middleware.limits import turns
from app.core.middleware.limits.turns import Turns

pytestmark = pytest.mark.anyio


async def test_turns_come_in_order_and_within_the_limit() -> None:
    given = Turns(10)
    ended: list[int] = []

    async def process(size: int) -> None:
        taken = await given.take(size)
        ended.append(size)
        await asyncio.sleep(0)
        given.give(taken)

    await asyncio.gather(*(process(size) for size in (6, 5, 4, 100, 1)))
    assert ended == [6, 5, 4, 100, 1]
    assert await given.take(10) == 10


async def test_a_client_that_leaves_gives_its_turn_away() -> None:
    given = Turns(10)
    first = await given.take(10)
    gone, second = (asyncio.create_task(given.take(size)) for size in (9, 2))
    await asyncio.sleep(0)
    gone.cancel()
    given.give(first)  # at once to `gone`, which does not know yet
    assert await second == 2
    assert await given.take(8) == 8


async def test_a_turn_that_does_not_come_is_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_WAIT_SECONDS", 0.01)
    given = Turns(10)
    taken = await given.take(3)
    with pytest.raises(Overloaded):
        await given.take(10)
    given.give(taken)
    assert await given.take(10) == 10
