"""Read the pages of a list. Each statement is made once for a combination of sort and filters."""

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, cast, get_args, overload

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    select,
    type_coerce,
)
from sqlalchemy.orm import QueryableAttribute, Session
from typing_extensions import TypeVar

from app.core.api.pagination import PARSERS, PageOf, PageQuery, cursor_after, position_of, sort_key
from app.core.database import Database
from app.core.database.base import table_of
from app.core.database.database import Mode
from app.core.database.unit_of_work import run_on
from app.core.resources.page_statements import SHARED_PAGES, SHARED_ROWS, PageStatement, Position

M = TypeVar("M")
Q = TypeVar("Q", bound=PageQuery, default=PageQuery)
Filter = Callable[[ColumnElement[Any]], ColumnElement[bool]] | QueryableAttribute[Any]

_CHUNK = 1000
"""Rows that a stream reads by one statement, and holds in memory."""


class Pages(Generic[M, Q]):
    """The pages of a table; `Resource` has those of its own.

    Parameters
    ----------
    model
        The mapped class; all columns are read. A sort is the name of one of them; `id` tells equals apart.
    query
        The class of the query, which says what the list can be sorted by.
    filters
        Functions that make a condition of a value, by the field of the query that has the value; they hold where the
        client sends that field. A column stands for "equals", which also is what a field means that has the name of a
        column and no filter. A filter whose name the query does not have is given its value by the caller,
        always, and a column may be: `orders.list(db, query, customer_id=7)`.
    """

    def __init__(
        self, model: type[M], query: type[Q] | None = None, filters: Mapping[str, Filter] | None = None
    ) -> None:
        query = query or cast("type[Q]", PageQuery)
        table = self._table = table_of(model, "id")
        self._filters = {name: _condition(table, name, given) for name, given in (filters or {}).items()}
        for name in query.model_fields:
            if name in PageQuery.model_fields or name in self._filters:
                continue
            if name not in table.c:
                raise TypeError(f"{query.__name__}.{name} is neither a column nor one of the filters")
            self._filters[name] = table.c[name] == bindparam(name)
        self._required = self._filters.keys() - query.model_fields.keys()
        self._of_query = [name for name in self._filters if name in query.model_fields]
        self._scopes = {name: name for name in self._required}
        for column in table.c:
            parameter = f"only_{column.key}"
            self._scopes.setdefault(column.key, parameter)
            self._filters[parameter] = column == bindparam(parameter)
        self._made: dict[tuple[str | bool, ...], PageStatement] = {}
        for sort in get_args(query.model_fields["sort"].annotation):
            key = table.c.get(sort.removeprefix("-"))
            if key is None:
                raise TypeError(f"{query.__name__}.sort: {table.name} has no column {sort.removeprefix('-')}")
            if key.nullable or key.type.python_type not in PARSERS:
                raise TypeError(f"{query.__name__}: cannot sort by {key}, which may be null or has another type")

    @overload
    def list(self, db: Database, query: Q, **scope: Any) -> Coroutine[Any, Any, PageOf[M]]: ...  # noqa: ANN401
    @overload
    def list(self, db: Connection | Session, query: Q, **scope: Any) -> PageOf[M]: ...  # noqa: ANN401
    def list(self, db: Database | Connection | Session, query: Q, **scope: Any) -> Any:
        """Read one page.

        Raises
        ------
        InvalidInput
            The cursor is invalid, or belongs to another list, sort or filter.
        """
        if isinstance(db, Database):
            return self._read(db, query, scope)
        return run_on(db, self._page, query, scope, query.limit, session=False)

    async def _read(self, db: Database, query: PageQuery, scope: Mapping[str, Any]) -> PageOf[M]:
        statement = self._statement(query, self._values(query, scope))
        if not statement.shareable or query.limit > SHARED_ROWS:
            return await db.run(Mode.READ, partial(self._page, query=query, scope=scope, limit=query.limit))
        position = self._position(query, scope)
        rows = await db.run_batched(Mode.READ, statement, position, reserved=False, max_batch=SHARED_PAGES)
        return self._cut(rows, query, scope, query.limit)

    async def stream(self, db: Database, query: Q, **scope: Any) -> AsyncIterator[M]:  # noqa: ANN401
        """Read all rows from the cursor on, in chunks.

        Neither a transaction nor a connection is held between two chunks: each sees what is committed when it is read.
        A row that is there throughout is read once.
        """
        after = query
        while True:
            page = await db.run(Mode.READ, partial(self._page, query=after, scope=scope, limit=_CHUNK))
            for row in page.items:
                yield row
            if page.next_cursor is None:
                return
            after = query.model_copy(update={"cursor": page.next_cursor})

    def _page(self, connection: Connection, query: PageQuery, scope: Mapping[str, Any], limit: int) -> PageOf[M]:
        values = self._values(query, scope)
        found = self._statement(query, values).read(connection, self._position(query, scope), values, limit)
        return self._cut(found, query, scope, limit)

    def _position(self, query: PageQuery, scope: Mapping[str, Any]) -> Position:
        return position_of(query, self._table.c[sort_key(query)], scope) if query.cursor is not None else None

    def _values(self, query: PageQuery, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the filters that hold."""
        if not self._required <= scope.keys() <= self._scopes.keys():
            needed = f"needs {sorted(self._required)}, for which the query has no field" if self._required else ""
            raise TypeError(f"the list {needed or 'takes columns only'}; the handler gave {sorted(scope)}")
        values = {name: value for name in self._of_query if (value := getattr(query, name, None)) is not None}
        return values | {self._scopes[name]: value for name, value in scope.items()}

    def _statement(self, query: PageQuery, filters: Iterable[str]) -> PageStatement:
        shape: tuple[str | bool, ...] = (query.sort, query.cursor is None, *filters)
        if (statement := self._made.get(shape)) is None:
            conditions = [self._filters[name] for name in filters]
            statement = PageStatement(self._table, query.sort, conditions, first=query.cursor is None)
            self._made[shape] = statement
        return statement

    def _cut(self, found: Sequence[object], query: PageQuery, scope: Mapping[str, Any], limit: int) -> PageOf[M]:
        """Make a page of the rows of its statement, which reads at least one more if there is one."""
        rows = cast("Sequence[M]", found)
        if len(rows) <= limit:
            return PageOf(rows, None)
        return PageOf(rows[:limit], cursor_after(rows[limit - 1], query, scope))


def _condition(table: Table, name: str, given: Filter) -> ColumnElement[bool]:
    value: ColumnElement[Any] = bindparam(name)
    condition = given == value if isinstance(given, QueryableAttribute) else given(value)
    if set(condition.compile().params) != {name}:
        raise TypeError(f"the filter {name} must depend on its value, and on no other")
    if select(table).where(condition).get_final_froms() != [table]:
        raise TypeError(f"the filter {name} has columns of another table than {table.name}: put them into exists()")
    return condition


class _Prefix(TypeDecorator[str]):
    """The text as a pattern of LIKE, with `/` before what has a meaning in such a pattern."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else re.sub("([%_/])", r"/\1", value) + "%"


def begins_with(column: QueryableAttribute[str]) -> Filter:
    """Make a filter: a column begins with the text of a field of the query."""
    return lambda text: column.like(type_coerce(text, _Prefix()), escape="/")
