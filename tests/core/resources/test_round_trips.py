"""What a resource does is one round trip to PostgreSQL, conditions and keys included."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.core.api.conditional_requests import PreconditionFailed, Preconditions
from app.core.database import Database
from app.core.database.once import Once
from tests.conftest import SQL, MakeSettings
from tests.sample.things import ThingCreate, ThingNotFound, ThingQuery, things
from tests.support.wire import counted

pytestmark = pytest.mark.anyio

LAMP = ThingCreate.model_validate({"name": "Lamp", "price": 19})
KEY = Once("", "key", "POST /test", lambda: None)
FIRST, SECOND = (Preconditions(if_match=frozenset({tag}), if_none_match=None) for tag in "12")
Operation = Callable[[Database], Coroutine[Any, Any, Any]]

OPERATIONS: dict[str, Operation] = {
    "get": lambda db: things.get(db, 1),
    "page": lambda db: things.list(db, ThingQuery(sort="-price")),
    "insert": lambda db: things.insert(db, LAMP),
    "insert with a key": lambda db: things.insert(db.once(KEY), LAMP),
    "insert many": lambda db: things.insert_many(db, [LAMP, LAMP]),
    "insert many with a key": lambda db: things.insert_many(db.once(KEY), [LAMP, LAMP]),
    "update": lambda db: things.update(db, 1, {"name": "Desk"}),
    "update with If-Match": lambda db: things.update(db, 1, {"name": "Desk"}, FIRST),
    "delete with If-Match": lambda db: things.delete(db, 1, FIRST),
}


async def count(settings: MakeSettings, database_url: str, operation: Operation) -> tuple[int, Exception | None]:
    """Count the round trips of an operation, on a connection that is open; return its error, too."""
    with counted(database_url) as wire:
        db = Database(settings(database_url=wire.url))
        try:
            await things.get(db, 1)
            before, error = wire.round_trips, None
            try:
                await operation(db)
            except Exception as raised:  # noqa: BLE001 - the test looks at it
                error = raised
            return wire.round_trips - before, error
        finally:
            db.dispose()


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_is_one_round_trip(
    name: str, make_settings: MakeSettings, database_url: str, sql: SQL
) -> None:
    sql("INSERT INTO things (name, price) VALUES ('Lamp', 1)")

    assert await count(make_settings, database_url, OPERATIONS[name]) == (1, None)


async def test_the_reason_why_nothing_was_changed_is_one_more(
    make_settings: MakeSettings, database_url: str, sql: SQL
) -> None:
    sql("INSERT INTO things (name, price) VALUES ('Lamp', 1)")

    number, stale = await count(make_settings, database_url, lambda db: things.delete(db, 1, SECOND))
    assert (number, type(stale)) == (2, PreconditionFailed)
    number, missing = await count(make_settings, database_url, lambda db: things.update(db, 4711, {"name": "Desk"}))
    assert (number, type(missing)) == (2, ThingNotFound)
