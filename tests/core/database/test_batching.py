"""Calls that meet share one answer from elsewhere, and harm each other in no way."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import NoResultFound
from starlette.testclient import TestClient

from app.core.database import Database, batched_read, batched_write
from app.core.database.batching import Batcher
from app.core.database.database import Mode
from app.core.database.unit_of_work import BatchedUnitOfWork
from app.core.errors import Conflict, DatabaseError, InternalError, InvalidInput
from app.core.observability.trace_id import get_trace_id, set_trace_id
from tests.conftest import SQL, MakeSettings


class Oracle:
    """Answers each question with its double, when it is let."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.busy = self.busiest = 0
        self.may_answer = asyncio.Event()

    async def __call__(self, questions: Sequence[int]) -> Sequence[int | Exception]:
        """Answer, as soon as it may."""
        self.asked.append(list(questions))
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await self.may_answer.wait()
        self.busy -= 1
        return [question * 2 for question in questions]


async def settle() -> None:
    """Let everything happen that waits for nothing but the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


def batcher(ask: Callable[[Sequence[int]], Awaitable[Sequence[int | Exception]]], **bounds: int) -> Any:
    return Batcher(ask, **{"max_batch": 100, "max_in_flight": 1, **bounds})


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 5))


def test_a_lone_call_waits_for_nobody() -> None:
    async def scene() -> None:
        oracle = Oracle()
        call = asyncio.create_task(batcher(oracle)(1))
        await settle()
        assert oracle.asked == [[1]]
        oracle.may_answer.set()
        assert await call == 2

    play(scene)


def test_only_after_a_crowd_there_are_turns_for_company() -> None:
    async def scene() -> None:
        oracle = Oracle()
        oracle.may_answer.set()
        together = batcher(oracle)

        async def turns_of_a_lone_call() -> int:
            call, asked = asyncio.create_task(together(1)), len(oracle.asked)
            for turn in range(20):
                if len(oracle.asked) > asked:
                    await call
                    return turn
                await asyncio.sleep(0)
            raise AssertionError("nobody asks")

        alone = await turns_of_a_lone_call()
        await asyncio.gather(*map(together, range(10)))
        assert await turns_of_a_lone_call() == alone + 4
        await turns_of_a_lone_call()
        assert await turns_of_a_lone_call() == alone

    play(scene)


def test_calls_that_meet_go_out_together_each_with_its_own_answer() -> None:
    async def scene() -> None:
        oracle = Oracle()
        oracle.may_answer.set()
        together = batcher(oracle)
        assert await asyncio.gather(*map(together, range(10))) == [n * 2 for n in range(10)]
        assert oracle.asked == [list(range(10))]

    play(scene)


def test_an_answer_is_never_older_than_its_question() -> None:
    async def scene() -> None:
        oracle = Oracle()
        together = batcher(oracle)
        first = asyncio.create_task(together(7))
        await settle()
        second = asyncio.create_task(together(7))  # the same, and yet asked anew
        await settle()
        assert oracle.asked == [[7]]
        oracle.may_answer.set()
        assert [await first, await second] == [14, 14]
        assert oracle.asked == [[7], [7]]

    play(scene)


def test_both_bounds_hold() -> None:
    async def scene() -> None:
        oracle = Oracle()
        together = batcher(oracle, max_batch=3, max_in_flight=2)
        calls = [asyncio.create_task(together(n)) for n in range(10)]
        await settle()
        assert oracle.asked == [[0, 1, 2], [3, 4, 5]]
        oracle.may_answer.set()
        await asyncio.gather(*calls)
        assert max(map(len, oracle.asked)) == 3
        assert oracle.busiest == 2

    play(scene)


def test_an_error_is_of_its_question_or_of_all() -> None:
    async def picky(questions: Sequence[int]) -> Sequence[int | Exception]:
        if 13 in questions:
            raise DatabaseError
        return [InvalidInput() if question < 0 else question for question in questions]

    async def scene() -> None:
        together = batcher(picky)
        one, bad, two = await asyncio.gather(*map(together, (1, -1, 2)), return_exceptions=True)
        assert (one, type(bad), two) == (1, InvalidInput, 2)
        answers = await asyncio.gather(together(1), together(13), return_exceptions=True)
        assert [type(answer) for answer in answers] == [DatabaseError, DatabaseError]
        assert await together(3) == 3

    play(scene)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_another_number_of_answers_than_of_questions_is_an_error_of_all(number: int) -> None:
    async def confused(_: Sequence[int]) -> Sequence[int]:
        return [0] * number

    async def scene() -> None:
        together = batcher(confused)
        answers = await asyncio.gather(together(1), together(2), return_exceptions=True)
        assert [str(answer) for answer in answers] == [f"{number} answers to 2 questions"] * 2

    play(scene)


def test_who_gives_up_harms_nobody() -> None:
    async def scene() -> None:
        oracle = Oracle()
        together = batcher(oracle)
        gone_out = [asyncio.create_task(together(n)) for n in (1, 2)]
        await settle()
        waiting = [asyncio.create_task(together(n)) for n in (3, 4)]
        await settle()
        gone_out[0].cancel()
        waiting[0].cancel()
        await settle()
        oracle.may_answer.set()
        assert [await gone_out[1], await waiting[1]] == [4, 8]
        assert oracle.asked == [[1, 2], [4]]

    play(scene)


def test_when_all_have_gone_nothing_is_asked_and_the_next_is_served() -> None:
    async def scene() -> None:
        oracle = Oracle()
        oracle.may_answer.set()
        together = batcher(oracle)
        call = asyncio.create_task(together(1))
        await asyncio.sleep(0)
        call.cancel()
        await settle()
        assert oracle.asked == []
        assert await together(2) == 4

    play(scene)


def test_the_wait_for_a_turn_has_an_end() -> None:
    async def scene() -> None:
        oracle = Oracle()
        together = batcher(oracle)
        first, second = (asyncio.create_task(together(n)) for n in (1, 2))
        await settle()
        third = asyncio.create_task(together(3))
        await asyncio.sleep(0.02)
        together.expire(0.01, DatabaseError())
        with pytest.raises(DatabaseError):
            await third
        oracle.may_answer.set()
        assert [await first, await second] == [2, 4]

    play(scene)


def test_a_shared_call_speaks_in_the_name_of_the_first() -> None:
    seen: list[str | None] = []

    async def note(questions: Sequence[int]) -> Sequence[int | Exception]:
        seen.append(get_trace_id())
        return list(questions)

    async def ask(together: Any, number: int) -> None:
        set_trace_id(f"trace-{number}")
        assert await together(number) == number
        assert get_trace_id() == f"trace-{number}"

    async def scene() -> None:
        together = batcher(note)
        await asyncio.gather(*(ask(together, n) for n in range(3)))
        await ask(together, 3)
        assert seen == ["trace-0", "trace-3"]

    play(scene)


_tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
seen: list[tuple[int, str, str | None]] = []


@batched_read
def read_names(connection: Connection, ids: Sequence[int]) -> Sequence[str]:
    """Read names slowly, and note how many at once, for which tenant and in which trace."""
    seen.append((len(ids), _tenant.get(), get_trace_id()))
    connection.execute(text("SELECT pg_sleep(0.05)"))
    names: dict[int, str] = {row.id: row.name for row in connection.execute(text("SELECT id, name FROM things"))}
    return [names[thing_id] for thing_id in ids]


@batched_write
def insert_prices(connection: Connection, prices: Sequence[int]) -> Sequence[int]:
    """Insert things by one statement."""
    statement = text("INSERT INTO things (name, price) SELECT 'x', p FROM unnest(CAST(:prices AS int[])) AS p")
    connection.execute(statement, {"prices": list(prices)})
    return prices


async def all_at_once(calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def test_reads_at_the_same_time_share_statements_in_a_context_of_no_caller(client: TestClient, sql: SQL) -> None:
    sql("INSERT INTO things (name, price) SELECT 'Thing' || n, n FROM generate_series(1, 50) AS n")
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    seen.clear()

    async def ask(thing_id: int) -> str:
        _tenant.set(f"tenant-{thing_id}")
        set_trace_id(f"trace-{thing_id}")
        return await read_names(database, thing_id)

    assert client.portal
    answers = client.portal.call(all_at_once, map(ask, range(1, 41)))

    assert answers == [f"Thing{n}" for n in range(1, 41)]
    assert sum(questions for questions, _, _ in seen) == 40
    assert len(seen) <= 10
    assert {tenant for _, tenant, _ in seen} == {"nobody"}
    assert len({trace for _, _, trace in seen} & {f"trace-{n}" for n in range(1, 41)}) == len(seen)


def test_a_bad_row_fails_alone(client: TestClient, sql: SQL) -> None:
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    assert client.portal

    answers = client.portal.call(all_at_once, (insert_prices(database, price) for price in (1, 2, -3, 4)))

    assert [answer if isinstance(answer, int) else type(answer) for answer in answers] == [1, 2, InvalidInput, 4]
    assert sorted(sql("SELECT price::int FROM things")) == [(1,), (2,), (4,)]


@batched_write
def insert_names(connection: Connection, names: Sequence[str]) -> Sequence[str]:
    """Insert things by one statement, and reject some of them, or fail, only after it."""
    statement = text("INSERT INTO things (name, price) SELECT n, 1 FROM unnest(CAST(:names AS text[])) AS n")
    connection.execute(statement, {"names": list(names)})
    if "late" in names:
        raise Conflict
    if "broken" in names:
        raise NoResultFound
    return names


def test_whatever_is_wrong_with_a_row_is_wrong_with_no_other(client: TestClient, sql: SQL) -> None:
    """Neither what the driver cannot send, nor what a trigger raises."""
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    assert client.portal
    sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.name = 'refused' THEN RAISE 'no'; END IF; RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER refuse BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION refuse()")
    try:
        names = ("a", "b\0", "\ud800", "refused", "c")
        answers = client.portal.call(all_at_once, (insert_names(database, name) for name in names))
    finally:
        sql("DROP FUNCTION refuse CASCADE")

    kinds = [answer if isinstance(answer, str) else type(answer) for answer in answers]
    assert kinds == ["a", InvalidInput, InvalidInput, InternalError, "c"]
    assert sorted(sql("SELECT name FROM things")) == [("a",), ("c",)]


@pytest.mark.parametrize(("name", "error"), [("late", Conflict), ("broken", InternalError)])
def test_what_is_committed_is_not_sent_again(client: TestClient, sql: SQL, name: str, error: type[Exception]) -> None:
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    assert client.portal

    answers = client.portal.call(all_at_once, (insert_names(database, each) for each in ("a", "b", "c", name)))

    assert error in map(type, answers)
    assert sorted(sql("SELECT name FROM things")) == sorted([("a",), ("b",), ("c",), (name,)])


def test_only_functions_of_a_module_are_batched() -> None:
    def closure(connection: Connection, ids: Sequence[int]) -> Sequence[int]:
        raise NotImplementedError

    works: list[Any] = [closure, partial(closure), lambda _, ids: ids, Oracle().__call__]
    for work in works:
        with pytest.raises(TypeError, match="only a function of a module"):
            batched_read(work)


@pytest.mark.anyio
async def test_a_function_that_is_gone_leaves_no_batcher(make_settings: MakeSettings) -> None:
    database = Database(make_settings())
    try:
        for _ in range(20):
            unit: Any = BatchedUnitOfWork(read_names.__wrapped__, Mode.READ)  # type: ignore[attr-defined]
            with pytest.raises(KeyError):
                await unit(database, 1)
        del unit
        gc.collect()
        assert len(database._batchers) <= 2  # a connection keeps its last unit until the next one
    finally:
        database.dispose()
