"""SQL: the only place of this feature that has any. Where nothing stands in its way, a function is one statement."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Numeric,
    Row,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    update,
)

from app.core.api.conditional_requests import PreconditionFailed, Preconditions
from app.core.api.idempotency import Inserted, Once, insert_once, remember
from app.core.api.pagination import Pages, begins_with
from app.core.database import batched_read, batched_write, read, transaction, write
from app.items.errors import ItemNotFound
from app.items.models import Item
from app.items.schemas import ItemCreate, ItemPatch, ItemQuery

ItemRow = Row[Any]
_table = cast("Table", Item.__table__)
_columns = _table.c

# Made once: to build a statement and its cache key costs more than to send it.
_BY_IDS = select(*_columns).where(_columns.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
_THIS = _columns.id == bindparam("this")
_LOCK = select(_columns.version).where(_THIS).with_for_update()
_DELETE = delete(_table).where(_THIS)
# Sets what else it is given parameters for, by the names of the columns.
_UPDATE = update(_table).where(_THIS).values(version=_columns.version + 1, updated_at=func.now()).returning(*_columns)

_PAGES = Pages(
    _columns,
    {
        "name": begins_with(_columns.name, "name"),
        "min_price": _columns.price >= bindparam("min_price"),
        "max_price": _columns.price <= bindparam("max_price"),
    },
)


def _inserting(*, once: bool) -> Select[Any]:
    """Make the statement; with the rows as three arrays its text is the same for one row and for a thousand."""
    given = (
        func.unnest(
            bindparam("names", type_=ARRAY(Text)),
            bindparam("prices", type_=ARRAY(Numeric)),
            bindparam("descriptions", type_=ARRAY(Text)),
        )
        .table_valued(column("name", Text), column("price", Numeric), column("description", Text), with_ordinality="n")
        .render_derived()
    )
    # Identities are drawn in the order of the SELECT, so `id` keeps the order that was sent.
    source = select(given.c.name, given.c.price, given.c.description).order_by(given.c.n)
    new = insert(Item).from_select(["name", "price", "description"], source).returning(*_columns).cte("new")
    statement = select(new).order_by(new.c.id)
    return statement.add_cte(*remember(new)) if once else statement


_INSERT, _INSERT_ONCE = _inserting(once=False), _inserting(once=True)


def _arrays(items: Sequence[ItemCreate]) -> dict[str, Any]:
    return {
        "names": [item.name for item in items],
        "prices": [item.price for item in items],
        "descriptions": [item.description for item in items],
    }


@write
def insert_items(connection: Connection, items: Sequence[ItemCreate]) -> Inserted:
    """Insert any number of items by one statement, all or none."""
    return Inserted(insert_each(connection, items))


@transaction(repeatable=True)
def insert_items_once(connection: Connection, items: Sequence[ItemCreate], once: Once) -> Inserted:
    """Insert any number of items once (see `insert_once`)."""
    values = {**_arrays(items), **once.parameters()}
    return insert_once(connection, _table, once, lambda: connection.execute(_INSERT_ONCE, values).all())


@batched_write
def insert_each(connection: Connection, items: Sequence[ItemCreate]) -> Sequence[ItemRow]:
    """Insert items that have nothing to do with each other, each answered in its place."""
    return connection.execute(_INSERT, _arrays(items)).all()


@batched_read
def get_items(connection: Connection, item_ids: Sequence[int]) -> Sequence[ItemRow | None]:
    """Read many items, each in the place of its id, or None."""
    rows = {row.id: row for row in connection.execute(_BY_IDS, {"ids": list(set(item_ids))})}
    return [rows.get(item_id) for item_id in item_ids]


def get_item(connection: Connection, item_id: int) -> ItemRow:
    """Read one item."""
    (row,) = get_items(connection, [item_id])
    if row is None:
        raise ItemNotFound(item_id)
    return row


@read
def list_items(connection: Connection, query: ItemQuery) -> Sequence[ItemRow]:
    """Read one page, and one row more where there is a next page."""
    return _PAGES.read(connection, query)


@transaction
def update_item(connection: Connection, item_id: int, patch: ItemPatch, conditions: Preconditions) -> ItemRow:
    """Change what the patch names, or nothing where it is empty; with conditions, in a transaction."""
    if conditions:
        _lock(connection, item_id, conditions)
    if not patch:
        return get_item(connection, item_id)
    row = connection.execute(_UPDATE, {"this": item_id, **patch}).one_or_none()
    if row is None:
        raise ItemNotFound(item_id)
    return row


@transaction
def delete_item(connection: Connection, item_id: int, conditions: Preconditions) -> None:
    """Delete one item; with conditions, in a transaction."""
    if conditions:
        _lock(connection, item_id, conditions)
    if connection.execute(_DELETE, {"this": item_id}).rowcount == 0:
        raise ItemNotFound(item_id)


def _lock(connection: Connection, item_id: int, conditions: Preconditions) -> None:
    """Hold the row until the transaction ends, and see whether the conditions hold."""
    version = connection.execute(_LOCK, {"this": item_id}).scalar_one_or_none()
    if version is None:
        raise ItemNotFound(item_id)
    if not conditions.hold(version):
        raise PreconditionFailed
