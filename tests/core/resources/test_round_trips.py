"""What a resource does is one round trip to PostgreSQL, conditions and keys included."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.core.api.conditional_requests import PreconditionFailed, Preconditions
from app.core.api.pagination import PageQuery
from app.core.database import Database
from app.core.database.once import Once
from app.core.resources import Pages, Resource
from app.items.errors import ItemNotFound
from app.items.models import Item
from app.items.schemas import ItemCreate, ItemPatch
from bench.wire import counted
from tests.conftest import SQL, MakeSettings

pytestmark = pytest.mark.anyio

items = Resource(Item, create=ItemCreate, patch=ItemPatch, not_found=ItemNotFound)
pages = Pages(Item)
LAMP = ItemCreate.model_validate({"name": "Lamp", "price": 19})
KEY = Once("", "key", "POST /test", lambda: None)
FIRST, SECOND = (Preconditions(if_match=frozenset({tag}), if_none_match=None) for tag in "12")
Operation = Callable[[Database], Coroutine[Any, Any, Any]]

OPERATIONS: dict[str, Operation] = {
    "get": lambda db: items.get(db, 1),
    "page": lambda db: pages.read(db, PageQuery(sort="-price")),
    "insert": lambda db: items.insert(db, LAMP),
    "insert with a key": lambda db: items.insert(db.once(KEY), LAMP),
    "insert many": lambda db: items.insert_many(db, [LAMP, LAMP]),
    "insert many with a key": lambda db: items.insert_many(db.once(KEY), [LAMP, LAMP]),
    "update": lambda db: items.update(db, 1, {"name": "Desk"}),
    "update with If-Match": lambda db: items.update(db, 1, {"name": "Desk"}, FIRST),
    "delete with If-Match": lambda db: items.delete(db, 1, FIRST),
}


async def count(settings: MakeSettings, database_url: str, operation: Operation) -> tuple[int, Exception | None]:
    """Count the round trips of an operation, on a connection that is open; return its error, too."""
    with counted(database_url) as wire:
        db = Database(settings(database_url=wire.url))
        try:
            await items.get(db, 1)
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
    sql("INSERT INTO items (name, price) VALUES ('Lamp', 1)")

    assert await count(make_settings, database_url, OPERATIONS[name]) == (1, None)


async def test_the_reason_why_nothing_was_changed_is_one_more(
    make_settings: MakeSettings, database_url: str, sql: SQL
) -> None:
    sql("INSERT INTO items (name, price) VALUES ('Lamp', 1)")

    number, stale = await count(make_settings, database_url, lambda db: items.delete(db, 1, SECOND))
    assert (number, type(stale)) == (2, PreconditionFailed)
    number, missing = await count(make_settings, database_url, lambda db: items.update(db, 4711, {"name": "Desk"}))
    assert (number, type(missing)) == (2, ItemNotFound)
