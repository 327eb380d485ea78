"""Updates that share a statement, on real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import psycopg2
import pytest
from sqlalchemy import Connection, text

from app.core.api.conditional_requests import PreconditionFailed, Preconditions
from app.core.database import Database
from app.core.database.database import Mode
from app.core.errors import InvalidInput, Overloaded
from app.core.lifecycle import lifecycle
from tests.conftest import SQL, MakeSettings
from tests.sample.things import ThingNotFound, ThingPatch, things

pytestmark = pytest.mark.anyio

statements: list[str] = []
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
async def db(make_settings: MakeSettings, sql: SQL) -> AsyncIterator[Database]:
    """Note the statements of a database with 40 things."""
    sql("INSERT INTO things (name, price, description) SELECT 'Lamp' || n, n, 'old' FROM generate_series(1, 40) AS n")
    settings = make_settings(db_statement_timeout=60, db_pool_timeout=60)  # and half of it for a lock
    database = Database(settings, [lambda _cursor, statement, *_: statements.append(statement)])
    await things.get(database, 1)  # SQLAlchemy's first connection asks questions of its own
    statements.clear()
    yield database
    database.dispose()


def only(version: int) -> Preconditions:
    """Make the condition of a request."""
    return Preconditions(frozenset({str(version)}), None)


async def test_updates_share_statements_and_each_has_its_own_columns_and_condition(db: Database, sql: SQL) -> None:
    patches: list[ThingPatch] = [{"name": "New"}, {"price": Decimal(7)}, {"description": None}, {"price": Decimal(9)}]

    answers = await asyncio.gather(
        *(things.update(db, n, patches[n % 4], only(2 if n % 4 == 3 else 1)) for n in range(1, 42)),
        return_exceptions=True,
    )

    assert len(statements) < 30, statements  # 41 alone, and 2 more for each of the 11 that change nothing
    for n, answer in enumerate(answers[:40], 1):
        if n % 4 == 3:
            assert isinstance(answer, PreconditionFailed)
            continue
        assert not isinstance(answer, BaseException), answer
        assert (answer.id, answer.version) == (n, 2)
    assert isinstance(answers[40], ThingNotFound)
    assert sql("SELECT id, name, price, description, version FROM things ORDER BY id LIMIT 4") == [
        (1, "Lamp1", Decimal(7), "old", 2),
        (2, "Lamp2", Decimal(2), None, 2),
        (3, "Lamp3", Decimal(3), "old", 1),
        (4, "New", Decimal(4), "old", 2),
    ]


async def test_every_update_of_one_row_is_made(db: Database, sql: SQL) -> None:
    await asyncio.gather(*(things.update(db, 1, {"price": Decimal(n)}) for n in range(1, 31)))

    assert sql("SELECT version FROM things WHERE id = 1") == [(31,)]


async def test_one_of_several_updates_with_one_version_is_made(db: Database, sql: SQL) -> None:
    answers = await asyncio.gather(
        *(things.update(db, 1, {"price": Decimal(n)}, only(1)) for n in range(1, 31)), return_exceptions=True
    )

    assert sum(isinstance(answer, PreconditionFailed) for answer in answers) == 29, answers
    assert sql("SELECT version FROM things WHERE id = 1") == [(2,)]


async def wait_for_waiter(sql: SQL) -> int:
    """Wait until a session of the database waits for a lock, and count those that do."""
    async with asyncio.timeout(60):
        while not (number := sql(WAITING)[0][0]):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)
    return int(number)


async def test_those_that_wait_for_a_locked_row_take_one_connection(db: Database, database_url: str, sql: SQL) -> None:
    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE id = 1 FOR UPDATE")
        changes = [things.update(db, 1, {"price": Decimal(n)}, Preconditions(frozenset("12"), None)) for n in range(20)]
        waiting = [asyncio.create_task(work) for work in (*changes, *(things.delete(db, 1) for _ in range(20)))]
        assert await wait_for_waiter(sql) == 1
        for row_id in range(2, 12):
            await things.delete(db, row_id)
        assert not any(task.done() for task in waiting)
        assert sql(WAITING) == [(1,)]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert len([answer for answer in answers if answer is None]) == 1, answers  # of the deletes
    assert sql("SELECT count(*) FROM things") == [(29,)]


async def test_a_turn_lasts_until_its_unit_ends(db: Database, database_url: str, sql: SQL) -> None:
    def lock(connection: Connection) -> None:
        connection.execute(text("SELECT FROM things WHERE id = 1 FOR UPDATE"))

    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE id = 1 FOR UPDATE")
        first, second = (asyncio.create_task(db.run_in_turn("row", lock)) for _ in range(2))
        assert await wait_for_waiter(sql) == 1
        first.cancel()  # its unit has begun
        await db.run_in_turn("another row", lambda connection: connection.execute(text("SELECT 1")))
        assert sql(WAITING) == [(1,)]
        second.cancel()  # its unit has not
        third = asyncio.create_task(db.run_in_turn("row", lock))
    await third


async def test_so_many_wait_for_their_turn_and_no_more(
    db: Database, database_url: str, sql: SQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(connection: Connection) -> None:
        connection.execute(text("SELECT FROM things WHERE id = 1 FOR UPDATE"))

    monkeypatch.setattr(db._waiting, "limit", 1)
    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE id = 1 FOR UPDATE")
        first, second = (asyncio.create_task(db.run_in_turn("row", lock)) for _ in range(2))
        assert await wait_for_waiter(sql) == 1

        with pytest.raises(Overloaded):
            await db.run_in_turn("row", lock)
        await db.run_in_turn("another row", lambda connection: connection.execute(text("SELECT 1")))
    await asyncio.gather(first, second)


async def test_those_that_wait_for_a_turn_or_a_connection_count_together(
    make_settings: MakeSettings, database_url: str, sql: SQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(connection: Connection) -> None:
        connection.execute(text("SELECT FROM things WHERE id = 1 FOR UPDATE"))

    sql("INSERT INTO things (name, price) VALUES ('Lamp', 1)")
    db = Database(make_settings(db_statement_timeout=60, db_pool_timeout=60, db_pool_size=1))
    monkeypatch.setattr(db._waiting, "limit", 2)
    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE id = 1 FOR UPDATE")
        in_turn = [asyncio.create_task(db.run_in_turn("row", lock)) for _ in range(2)]
        assert await wait_for_waiter(sql) == 1
        for_connection = asyncio.create_task(db.run(Mode.AUTOCOMMIT, lock))
        read = asyncio.create_task(things.get(db, 1))  # is batched, so it does not count
        await asyncio.sleep(0)

        with pytest.raises(Overloaded):
            await db.run(Mode.AUTOCOMMIT, lock)
        with monkeypatch.context() as patched:
            patched.setattr(db._waiting, "limit", 100)
            patched.setattr(lifecycle, "crowded", True)
            with pytest.raises(Overloaded):
                await db.run_in_turn("row", lock)
    await asyncio.gather(*in_turn, for_connection, read)
    assert db._waiting.number == 0
    db.dispose()


async def test_an_update_overtakes_none_that_waits_for_its_turn(db: Database, database_url: str, sql: SQL) -> None:
    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE id = 1 FOR UPDATE")
        either = Preconditions(frozenset({"1", "2"}), None)  # is not shared
        waiting = [asyncio.create_task(things.update(db, 1, {"price": Decimal(5)}, either))]
        assert await wait_for_waiter(sql) == 1
        statements.clear()

        waiting.append(asyncio.create_task(things.update(db, 1, {"price": Decimal(6)})))
        await things.update(db, 2, {"price": Decimal(6)})

        assert len(statements) == 1, statements  # two where the locked row was tried
    await asyncio.gather(*waiting)
    assert sql("SELECT price, version FROM things WHERE id = 1") == [(Decimal(6), 3)]


async def test_a_row_that_is_locked_holds_up_its_own_updates_only(db: Database, database_url: str, sql: SQL) -> None:
    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE id = 1 FOR UPDATE")
        locked = [asyncio.create_task(things.update(db, 1, {"price": Decimal(5)})) for _ in range(3)]

        async with asyncio.timeout(20):
            for _ in range(3):
                await asyncio.gather(*(things.update(db, n, {"price": Decimal(5)}) for n in range(2, 41)))

        assert [task.done() for task in locked] == [False] * 3
    await asyncio.gather(*locked)
    assert sql("SELECT version FROM things WHERE id < 3 ORDER BY id") == [(4,), (4,)]


async def test_updates_that_meet_one_of_a_locked_row_do_not_wait_for_it(
    db: Database, database_url: str, sql: SQL
) -> None:
    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM things WHERE id = 1 FOR UPDATE")
        # More than there are connections for what is not shared.
        locked = [asyncio.create_task(things.update(db, 1, {"price": Decimal(5)})) for _ in range(12)]

        async with asyncio.timeout(20):
            for _ in range(3):
                locked.append(asyncio.create_task(things.update(db, 1, {"price": Decimal(5)})))
                await asyncio.gather(*(things.update(db, n, {"price": Decimal(5)}) for n in range(2, 41)))

        assert not any(task.done() for task in locked)
    await asyncio.gather(*locked)
    assert sql("SELECT version FROM things WHERE id < 3 ORDER BY id") == [(16,), (4,)]


async def test_an_update_that_postgresql_rejects_fails_alone(db: Database, sql: SQL) -> None:
    answers = await asyncio.gather(
        *(things.update(db, n, {"price": Decimal(0 if n == 7 else 5)}) for n in range(1, 41)), return_exceptions=True
    )

    assert [n for n, answer in enumerate(answers, 1) if isinstance(answer, BaseException)] == [7]
    assert isinstance(answers[6], InvalidInput)
    assert sql("SELECT count(*) FROM things WHERE version = 2") == [(39,)]
