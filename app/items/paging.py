"""Keyset paging: a page begins after the last row of the one before, wherever that row is by now.

A cursor holds that row's sort value and id, and a digest that binds it to the sort and the filters it was made
for. The digest tells an altered or foreign cursor from a good one; it is no secret, and need not be: whatever
a cursor can say, the filters can say too, and every value in it is checked.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.core.errors import InvalidInput
from app.items.models import Item
from app.items.schemas import MAX_ID, MAX_PRICE, ItemQuery

_DIGEST_SIZE = 12


def _price(text: str) -> Decimal:
    price = Decimal(text)
    if not 0 < price <= MAX_PRICE:
        raise ValueError("no price")
    return price


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.astimezone(UTC)  # PostgreSQL takes no offset of 16 hours and more


def _name(text: str) -> str:
    if "\0" in text:
        raise ValueError("no name")
    text.encode()  # a lone surrogate is a ValueError
    return text


_COLUMNS: dict[str, InstrumentedAttribute[Any]] = {
    "id": Item.id,
    "name": Item.name,
    "price": Item.price,
    "created_at": Item.created_at,
}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "id": int,
    "name": _name,
    "price": _price,
    "created_at": _moment,
}


def paged(statement: Select[Any], query: ItemQuery) -> Select[Any]:
    """Order `statement` by the sort, with id to tell equals apart, and begin it after the cursor."""
    key = query.sort.removeprefix("-")
    descending = query.sort.startswith("-")
    columns = (Item.id,) if key == "id" else (_COLUMNS[key], Item.id)
    if query.cursor is not None:
        value, item_id = _decode(query)
        position = (item_id,) if key == "id" else (value, item_id)
        here, there = tuple_(*columns), tuple_(*position)
        statement = statement.where(here < there if descending else here > there)
    order = [column.desc() if descending else column.asc() for column in columns]
    return statement.order_by(*order).limit(query.limit + 1)


def cursor_after(row: Row[Any], query: ItemQuery) -> str:
    """Make the cursor of the page that begins after `row`."""
    value = getattr(row, query.sort.removeprefix("-"))
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    # As UTF-8, not escaped: a cursor is never longer than `ItemQuery` allows, whatever script the name is in.
    payload = json.dumps([text, row.id], ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(payload, query) + payload).rstrip(b"=").decode("ascii")


def _decode(query: ItemQuery) -> tuple[Any, int]:
    """Read the cursor, or raise `InvalidInput`."""
    try:
        assert query.cursor is not None  # noqa: S101 - the caller's condition
        raw = base64.b64decode(query.cursor + "=" * (-len(query.cursor) % 4), b"-_", validate=True)
        digest, payload = raw[:_DIGEST_SIZE], raw[_DIGEST_SIZE:]
        if digest != _digest(payload, query):
            raise ValueError("altered, or made for another sort or filter")
        text, item_id = json.loads(payload)
        if type(text) is not str or type(item_id) is not int or not 1 <= item_id <= MAX_ID:
            raise ValueError("no position")
        return _PARSERS[query.sort.removeprefix("-")](text), item_id
    except (ValueError, TypeError, ArithmeticError, RecursionError, binascii.Error):
        problem = {
            "loc": ["query", "cursor"],
            "msg": "Not a cursor of this list with this sort and these filters",
            "type": "cursor_invalid",
        }
        raise InvalidInput(errors=[problem]) from None


def _digest(payload: bytes, query: ItemQuery) -> bytes:
    bound = json.dumps([query.sort, query.name, str(query.min_price), str(query.max_price)]).encode()
    return hashlib.blake2b(bound + b"\0" + payload, digest_size=_DIGEST_SIZE, person=b"items cursor 1").digest()
