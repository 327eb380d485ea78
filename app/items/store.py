"""SQL: the only place of this feature that has any. Every function is one statement, and so one round trip."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from app.core.database import ReadConnection, WriteConnection
from app.items.models import Item
from app.items.paging import paged
from app.items.schemas import ItemCreate, ItemPatch, ItemQuery

ItemRow = Row[Any]
_columns = Item.__table__.c


def insert_item(connection: WriteConnection, item: ItemCreate) -> ItemRow:
    """Insert one item and return it whole."""
    statement = insert(Item).returning(*_columns)
    return connection.execute(statement, item.model_dump(mode="python")).one()


def get_item(connection: ReadConnection, item_id: int) -> ItemRow | None:
    """Read one item."""
    return connection.execute(select(*_columns).where(_columns.id == item_id)).one_or_none()


def list_items(connection: ReadConnection, query: ItemQuery) -> Sequence[ItemRow]:
    """Read one page, and one row more where there is a next page."""
    statement = select(*_columns)
    if query.name is not None:
        statement = statement.where(_columns.name.startswith(query.name, autoescape=True))
    if query.min_price is not None:
        statement = statement.where(_columns.price >= query.min_price)
    if query.max_price is not None:
        statement = statement.where(_columns.price <= query.max_price)
    return connection.execute(paged(statement, query)).all()


def update_item(connection: WriteConnection, item_id: int, patch: ItemPatch) -> ItemRow | None:
    """Change what the patch names, or nothing where it is empty."""
    if not patch:
        return get_item(connection, item_id)
    statement = (
        update(Item)
        .where(_columns.id == item_id)
        .values(**patch, version=_columns.version + 1, updated_at=func.now())
        .returning(*_columns)
    )
    return connection.execute(statement).one_or_none()


def delete_item(connection: WriteConnection, item_id: int) -> bool:
    """Delete one item, and tell whether it was there."""
    return connection.execute(delete(Item).where(_columns.id == item_id)).rowcount == 1
