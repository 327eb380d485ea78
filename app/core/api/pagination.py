"""Keyset paging: a page begins after the last row of the one before, wherever that row is by now.

A cursor contains that row's sort value and id, and a digest of these, the sort and the filters, which detects altered
and foreign cursors. The digest is not secret, and need not be: any position in a cursor can be requested by filters,
too, and every value in it is checked.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import ColumnElement

from app.core.api.openapi.operations import Description, documented, header
from app.core.api.types import CANONICAL_INTEGER, MAX_ID
from app.core.errors import InvalidInput

_DIGEST_SIZE = 12


class PageQuery(BaseModel):
    """The query of every list. A misspelt name is rejected: without its filter the response would be wrong.

    A feature narrows `sort` to the columns that have an index with `id` behind them, each also with `-` in front:
    `Literal["id", "-id", "created_at", "-created_at"]`. They are NOT NULL, and integers, numbers, moments or text.
    """

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100), CANONICAL_INTEGER] = 20
    sort: Annotated[str, StringConstraints(pattern=r"^-?id$")] = "id"
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[A-Za-z0-9_-]*$")] | None = (
        Field(None, description="`next_cursor` of the page before, with the same sort and filters")
    )


NextCursor = Annotated[str | None, Field(description="Opaque; null on the last page")]


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list, as clients see it: `response_model=Page[Order]`."""

    model_config = ConfigDict(from_attributes=True)

    items: list[Item]
    next_cursor: NextCursor


@dataclass(frozen=True, slots=True)
class PageOf(Generic[Item]):
    """One page of rows, and the cursor of the next one if there is one."""

    items: Sequence[Item]
    next_cursor: str | None


def sort_key(query: PageQuery) -> str:
    """Return the name of the column that a list is sorted by."""
    return query.sort.removeprefix("-")


class NextLink:
    """Leads from one page to the next."""

    def __init__(self, request: Request, response: Response) -> None:
        self._request, self._response = request, response

    def checked(self, page: PageOf[Item]) -> PageOf[Item]:
        """Set `Link` to the next page (RFC 8288), if there is one, and return the page.

        The reference is relative: scheme and host are what the client used, whatever proxies stand between.
        """
        if page.next_cursor is not None:
            given = [(name, value) for name, value in self._request.query_params.multi_items() if name != "cursor"]
            query = urlencode([*given, ("cursor", page.next_cursor)])
            self._response.headers["Link"] = f'<{quote(self._request.scope["path"])}?{query}>; rel="next"'
        return page


def _description(_method: str, status: str) -> Description:
    return {"responses": {status: {"headers": {"Link": header("The next page (rel=next), while there is one")}}}}


@documented(_description)
async def _next_link(request: Request, response: Response) -> NextLink:
    return NextLink(request, response)


Links = Annotated[NextLink, Depends(_next_link)]
"""For a handler that answers with a page: `return links.checked(await orders.list(db, query))`."""


def cursor_after(row: object, query: PageQuery, scope: Mapping[str, Any]) -> str:
    """Make the cursor of the page that begins after `row`."""
    value = getattr(row, sort_key(query))
    text = value.isoformat() if isinstance(value, date) else str(value)
    # As UTF-8, not escaped: a cursor is never longer than `PageQuery` allows, whatever script a name is in.
    row_id: int = row.id  # type: ignore[attr-defined]  # every row has one
    payload = json.dumps([text, row_id], ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(payload, query, scope) + payload).rstrip(b"=").decode("ascii")


def position_of(query: PageQuery, column: ColumnElement[Any], scope: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the sort value and the id that the cursor of a query stands for, or raise `InvalidInput`."""
    try:
        cursor = query.cursor or ""
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        digest, payload = raw[:_DIGEST_SIZE], raw[_DIGEST_SIZE:]
        if digest != _digest(payload, query, scope):
            raise ValueError("altered, or made for another list, sort or filter")
        text, row_id = json.loads(payload)
        if type(text) is not str or type(row_id) is not int or not 1 <= row_id <= MAX_ID:
            raise ValueError("not a position")
        return PARSERS[column.type.python_type](text, column.type), row_id
    except (ValueError, TypeError, ArithmeticError, RecursionError, binascii.Error):
        problem = {
            "loc": ["query", "cursor"],
            "msg": "Not a cursor of this list with this sort and these filters",
            "type": "cursor_invalid",
        }
        raise InvalidInput(errors=[problem]) from None


def _digest(payload: bytes, query: PageQuery, scope: Mapping[str, Any]) -> bytes:
    scoped = f"{type(query).__name__} {query.model_dump_json(exclude={'limit', 'cursor'})}".encode()
    if scope:
        scoped += json.dumps(sorted(scope.items()), default=str).encode()
    return hashlib.blake2b(scoped + b"\0" + payload, digest_size=_DIGEST_SIZE, person=b"cursor 1").digest()


def _integer(text: str, _: Any) -> int:  # noqa: ANN401 - SQLAlchemy's types
    number = int(text)
    if abs(number) > MAX_ID:
        raise ValueError("not a bigint")
    return number


def _number(text: str, kind: Any) -> Decimal:  # noqa: ANN401
    number = Decimal(text)
    is_too_large = kind.precision is not None and abs(number) >= 10 ** (kind.precision - (kind.scale or 0))
    if is_too_large or not number.is_finite():
        raise ValueError("not a number of the column")
    return number


def _moment(text: str, kind: Any) -> datetime:  # noqa: ANN401
    moment = datetime.fromisoformat(text)
    if (moment.tzinfo is not None) is not kind.timezone:
        raise ValueError("not a moment of the column")
    return moment.astimezone(UTC) if kind.timezone else moment  # PostgreSQL takes no offset of 16 hours and more


def _date(text: str, _: Any) -> date:  # noqa: ANN401
    return date.fromisoformat(text)


def _text(text: str, _: Any) -> str:  # noqa: ANN401
    if "\0" in text:
        raise ValueError("not text")
    text.encode()  # a lone surrogate is a ValueError
    return text


PARSERS: dict[type, Callable[[str, Any], Any]] = {
    int: _integer,
    Decimal: _number,
    datetime: _moment,
    date: _date,
    str: _text,
}
"""Read a sort value from a cursor, by the Python type of the column."""
