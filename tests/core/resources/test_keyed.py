"""Inserts with idempotency keys of which another transaction holds some, on real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Connection

from app.core.database import Database, transaction
from app.core.database.database import Keyed
from app.core.database.idempotency import IdempotencyKeyInUse
from app.core.database.once import Once
from tests.conftest import SQL, MakeSettings
from tests.core.resources.test_updates import WAITING, wait_for_waiter
from tests.sample.things import ThingCreate, things

pytestmark = pytest.mark.anyio

LAMP = ThingCreate(name="Lamp", price=Decimal(1))
# More than there are connections.
KEYS = [f"held-{number}" for number in range(15)]


@transaction
def make_two(connection: Connection) -> int:
    """Insert two things."""
    return len(things.insert_many(connection, [LAMP, LAMP]))


@pytest.fixture
async def db(make_settings: MakeSettings) -> AsyncIterator[Database]:
    database = Database(make_settings(db_statement_timeout=60, db_pool_timeout=60))  # and half of it for a lock
    yield database
    database.dispose()


@contextmanager
def holding(database_url: str, keys: list[str]) -> Iterator[None]:
    """Have another transaction hold keys, which are free again afterwards."""
    other = psycopg2.connect(database_url)
    with other, other.cursor() as cursor:
        cursor.execute("INSERT INTO idempotency_keys (key, fingerprint, rows) SELECT unnest(%s), '', '[]'", [keys])
        yield
        other.rollback()
    other.close()


def keyed(db: Database, key: str, replays: list[str] | None = None) -> Keyed:
    once = db.once(Once("", key, "POST /things", lambda: None if replays is None else replays.append(key)))
    assert isinstance(once, Keyed)
    return once


async def test_keys_that_are_held_hold_up_their_own_requests_only(db: Database, database_url: str, sql: SQL) -> None:
    replays: list[str] = []
    with holding(database_url, KEYS):
        held = [asyncio.create_task(things.insert(keyed(db, key, replays), LAMP)) for key in KEYS * 2]
        async with asyncio.timeout(20):
            for turn in range(3):
                held.append(asyncio.create_task(things.insert(keyed(db, KEYS[turn], replays), LAMP)))
                new = await asyncio.gather(*(things.insert(keyed(db, f"{turn}-{n}"), LAMP) for n in range(40)))
                await things.insert(db, LAMP)
                assert (await things.get(db, new[0].id)).id == new[0].id
        assert not any(task.done() for task in held)
    made = await asyncio.gather(*held)

    assert len({thing.id for thing in made}) == len(KEYS)
    assert sorted(replays) == sorted([*KEYS, *KEYS[:3]])
    assert sql("SELECT count(*) FROM things") == [(len(KEYS) + 3 * 41,)]


async def test_those_that_wait_for_a_key_take_one_connection(db: Database, database_url: str, sql: SQL) -> None:
    with holding(database_url, ["held"]):
        waiting: list[asyncio.Task[Any]] = [asyncio.create_task(make_two(keyed(db, "held"))) for _ in range(20)]
        waiting += [asyncio.create_task(things.insert(keyed(db, "held"), LAMP)) for _ in range(20)]
        assert await wait_for_waiter(sql) == 1
        assert [await make_two(keyed(db, f"free-{n}")) for n in range(10)] == [2] * 10
        assert sql(WAITING) == [(1,)]
    answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert answers[:20] == [2] * 20
    assert {type(answer).__name__ for answer in answers[20:]} == {"IdempotencyKeyReused"}


async def test_a_key_whose_turn_does_not_come_is_in_use(
    make_settings: MakeSettings, database_url: str, sql: SQL
) -> None:
    db = Database(make_settings(db_statement_timeout=60, db_pool_timeout=1))
    with holding(database_url, ["held"]):
        first = asyncio.create_task(make_two(keyed(db, "held")))
        await wait_for_waiter(sql)
        with pytest.raises(IdempotencyKeyInUse):
            await make_two(keyed(db, "held"))
        with pytest.raises(IdempotencyKeyInUse):
            await things.insert(keyed(db, "held"), LAMP)
    assert await first == 2
    db.dispose()
