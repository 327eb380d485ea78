"""Keyset paging: a page begins after the last row of the one before, wherever that row is by now.

A cursor holds that row's sort value and id, and a digest that binds it to the sort and the filters it was made
for. The digest tells an altered or foreign cursor from a good one; it is no secret, and need not be: whatever
a cursor can say, the filters can say too, and every value in it is checked.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Integer,
    Row,
    Select,
    Text,
    TypeDecorator,
    bindparam,
    select,
    tuple_,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.core.api.types import MAX_ID, canonical_integer
from app.core.errors import InvalidInput

_DIGEST_SIZE = 12


class PageQuery(BaseModel):
    """What every list takes. A misspelt name is refused: without its filter the answer would be wrong.

    A feature narrows `sort` to the columns that have an index with `id` behind them, each also with `-` in front:
    `Literal["id", "-id", "created_at", "-created_at"]`. They are NOT NULL, and integers, numbers, moments or text.
    """

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(canonical_integer)] = 20
    sort: str = "id"
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[A-Za-z0-9_-]*$")] | None = (
        Field(None, description="`next_cursor` of the page before, with the same sort and filters")
    )


NextCursor = Annotated[str | None, Field(description="Opaque; null on the last page")]


class Pages:
    """Reads the pages of a list.

    Each of its statements is made once, for one combination of sort and filters: to make one takes longer than to
    send it.

    Parameters
    ----------
    columns
        Those of the table: all are read. A sort is the name of one of them; `id` tells equals apart.
    filters
        Conditions, each by the field of the query whose value is its bind parameter, of the same name. They hold
        where the query has that field.
    """

    def __init__(
        self, columns: ReadOnlyColumnCollection[str, Any], filters: Mapping[str, ColumnElement[bool]] | None = None
    ) -> None:
        self._columns = columns
        self._filters = filters or {}
        for field, condition in self._filters.items():
            if set(condition.compile().params) != {field}:
                raise TypeError(f"the one bind parameter of the filter {field} must have its name")
        self._made: dict[tuple[str | bool, ...], Select[Any]] = {}

    def read(self, connection: Connection, query: PageQuery) -> Sequence[Row[Any]]:
        """Read one page, and one row more where there is a next one; `split` takes it off again.

        Raises
        ------
        InvalidInput
            The cursor is none, or belongs to another list, sort or filter.
        """
        values = {name: value for name in self._filters if (value := getattr(query, name)) is not None}
        shape: tuple[str | bool, ...] = (query.sort, query.cursor is not None, *values)
        if (statement := self._made.get(shape)) is None:
            statement = self._made[shape] = self._make(query, values)
        values["page_rows"] = query.limit + 1
        if query.cursor is not None:
            values["page_last"], values["page_last_id"] = _decode(query.cursor, query, self._columns[_key(query)])
        return connection.execute(statement, values).all()

    def _make(self, query: PageQuery, filters: Iterable[str]) -> Select[Any]:
        key, row_id = self._columns[_key(query)], self._columns.id
        if key.nullable or key.type.python_type not in _PARSERS:
            raise TypeError(f"a page cannot begin after a {key}: sort by what is NOT NULL, of a type in _PARSERS")
        last, last_id = bindparam("page_last", type_=key.type), bindparam("page_last_id", type_=row_id.type)
        keys, position = ([row_id], [last_id]) if key is row_id else ([key, row_id], [last, last_id])
        here, there = tuple_(*keys), tuple_(*position)
        descending = query.sort.startswith("-")
        statement = select(*self._columns).where(*(self._filters[name] for name in filters))
        if query.cursor is not None:
            statement = statement.where(here < there if descending else here > there)
        order = [column.desc() if descending else column.asc() for column in keys]
        return statement.order_by(*order).limit(bindparam("page_rows", type_=Integer()))


class _Prefix(TypeDecorator[str]):
    """The text as a pattern of LIKE, with `/` before what such a pattern would take for itself."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else re.sub("([%_/])", r"/\1", value) + "%"


def begins_with(column: ColumnElement[str], field: str) -> ColumnElement[bool]:
    """Make a filter: a column begins with the text that this field of the query has."""
    return column.like(bindparam(field, type_=_Prefix()), escape="/")


def _key(query: PageQuery) -> str:
    return query.sort.removeprefix("-")


def split(rows: Sequence[Row[Any]], query: PageQuery) -> tuple[Sequence[Row[Any]], str | None]:
    """Take the page out of the rows that `Pages` read, and make the cursor of the next one if there is one."""
    if len(rows) <= query.limit:
        return rows, None
    page = rows[: query.limit]
    return page, cursor_after(page[-1], query)


def link_to_next(request: Request, cursor: str | None) -> dict[str, str]:
    """Make the header field that leads to the next page (RFC 8288), if there is one."""
    if cursor is None:
        return {}
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return {"Link": f'<{request.url.replace(query=urlencode([*query, ("cursor", cursor)]))}>; rel="next"'}


def cursor_after(row: Row[Any], query: PageQuery) -> str:
    """Make the cursor of the page that begins after `row`."""
    value = getattr(row, _key(query))
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    # As UTF-8, not escaped: a cursor is never longer than `PageQuery` allows, whatever script a name is in.
    payload = json.dumps([text, row.id], ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(payload, query) + payload).rstrip(b"=").decode("ascii")


def _decode(cursor: str, query: PageQuery, column: ColumnElement[Any]) -> tuple[Any, int]:
    """Read the cursor, or raise `InvalidInput`."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        digest, payload = raw[:_DIGEST_SIZE], raw[_DIGEST_SIZE:]
        if digest != _digest(payload, query):
            raise ValueError("altered, or made for another list, sort or filter")
        text, row_id = json.loads(payload)
        if type(text) is not str or type(row_id) is not int or not 1 <= row_id <= MAX_ID:
            raise ValueError("no position")
        return _PARSERS[column.type.python_type](text, column.type), row_id
    except (ValueError, TypeError, ArithmeticError, RecursionError, binascii.Error):
        problem = {
            "loc": ["query", "cursor"],
            "msg": "Not a cursor of this list with this sort and these filters",
            "type": "cursor_invalid",
        }
        raise InvalidInput(errors=[problem]) from None


def _digest(payload: bytes, query: PageQuery) -> bytes:
    bound = f"{type(query).__name__} {query.model_dump_json(exclude={'limit', 'cursor'})}".encode()
    return hashlib.blake2b(bound + b"\0" + payload, digest_size=_DIGEST_SIZE, person=b"cursor 1").digest()


def _integer(text: str, _: Any) -> int:  # noqa: ANN401 - SQLAlchemy's types
    number = int(text)
    if abs(number) > MAX_ID:
        raise ValueError("no bigint")
    return number


def _number(text: str, kind: Any) -> Decimal:  # noqa: ANN401
    number = Decimal(text)
    if not number.is_finite() or abs(number) >= 10 ** (kind.precision - kind.scale):
        raise ValueError("no such number")
    return number


def _moment(text: str, _: Any) -> datetime:  # noqa: ANN401
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.astimezone(UTC)  # PostgreSQL takes no offset of 16 hours and more


def _text(text: str, _: Any) -> str:  # noqa: ANN401
    if "\0" in text:
        raise ValueError("no text")
    text.encode()  # a lone surrogate is a ValueError
    return text


# By what a column's type is in Python.
_PARSERS: dict[type, Callable[[str, Any], Any]] = {int: _integer, Decimal: _number, datetime: _moment, str: _text}
