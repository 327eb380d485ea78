"""The statements that read pages: one, or several that are asked for at the same time."""

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    bindparam,
    column,
    select,
    tuple_,
)
from sqlalchemy.sql import func, true

from app.core.resources.inserts import QUESTION
from app.core.resources.rows import row_class

SHARED_ROWS = 20
"""Pages of at most so many rows share a statement: each is read in a fraction of a millisecond."""
SHARED_PAGES = 10
"""Pages that share one. A row may be as large as its texts: 40 KB for an item whose description is all emoji."""

Position = tuple[Any, int] | None
"""The sort value and the id that a page begins after, or None for the first page."""


class PageStatement:
    """Reads the first page of a list with one sort and some filters, or its later pages.

    Attributes
    ----------
    shareable
        Whether all pages are quick to read, since an index has their order and nothing is filtered out. In a shared
        statement, a slow page would hold up the others.
    """

    def __init__(self, table: Table, sort: str, filters: Sequence[ColumnElement[bool]], *, first: bool) -> None:
        key, row_id = table.c[sort.removeprefix("-")], table.c.id
        self._table, self._filters, self._descending = table, filters, sort.startswith("-")
        self._keys: list[Column[Any]] = [row_id] if key is row_id else [key, row_id]
        self._last = {} if first else {f"_page_last_{number}": key.type for number, key in enumerate(self._keys)}
        self.shareable = not filters and _has_index(table, self._keys)
        self._one = self._page([bindparam(name, type_=kind) for name, kind in self._last.items()])
        self._row = row_class(table)
        self._many = self._pages() if self.shareable and not first else None

    def read(
        self, connection: Connection, position: Position, values: Mapping[str, Any], limit: int
    ) -> Sequence[tuple[Any, ...]]:
        """Read a page, and one row more if there is one; `values` are those of the filters."""
        given = {"_page_rows": limit + 1, **self._after(position), **values}
        return [*map(self._row, connection.execute(self._one, given).all())]  # `all` does not fetch row by row

    def __call__(self, connection: Connection, positions: Sequence[Position]) -> Sequence[Sequence[tuple[Any, ...]]]:
        """Read pages of `SHARED_ROWS` rows, and one row more of each, by one statement, if it is shareable."""
        found: dict[Position, list[tuple[Any, ...]]] = {position: [] for position in positions}
        if self._many is None or len(found) == 1:
            return [self.read(connection, positions[0], {}, SHARED_ROWS)] * len(positions)
        distinct = list(found)
        after = [self._after(position) for position in distinct]
        arrays = {name: [last[name] for last in after] for name in self._last}
        for row in connection.execute(self._many, {"_page_rows": SHARED_ROWS + 1, **arrays}).all():
            found[distinct[row[0] - 1]].append(self._row(row[1:]))
        return [found[position] for position in positions]

    def _after(self, position: Position) -> dict[str, Any]:
        return dict(zip(self._last, (position or ())[-len(self._last) :], strict=True))

    def _page(self, after: Sequence[ColumnElement[Any]]) -> Select[Any]:
        statement = select(*self._table.c).where(*self._filters)
        if after:
            here, there = tuple_(*self._keys), tuple_(*after)
            statement = statement.where(here < there if self._descending else here > there)
        return statement.order_by(*self._order(self._keys)).limit(bindparam("_page_rows", type_=Integer()))

    def _pages(self) -> Select[Any]:
        """Read the page after each of several positions, which are given as arrays."""
        arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in self._last.items()]
        columns = [column(name, kind) for name, kind in self._last.items()]
        given = func.unnest(*arrays).table_valued(*columns, with_ordinality=QUESTION).render_derived("given")
        page = self._page([given.c[name] for name in self._last]).lateral("page")
        order = self._order([page.c[key.key] for key in self._keys])
        question = given.c[QUESTION]
        return select(question, *page.c).join_from(given, page, true()).order_by(question, *order)

    def _order(self, keys: Sequence[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
        return [key.desc() if self._descending else key.asc() for key in keys]


def _has_index(table: Table, keys: Sequence[ColumnElement[Any]]) -> bool:
    """Return whether the primary key or an index of the whole table begins with these columns."""
    whole = (index for index in table.indexes if index.dialect_options["postgresql"]["where"] is None)
    indexed: list[Sequence[Any]] = [list(table.primary_key), *(index.expressions for index in whole)]
    return any(len(known) >= len(keys) and all(map(is_, known, keys)) for known in indexed)
