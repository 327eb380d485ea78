"""Updates of rows by id that share a statement, each with values and a condition of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ARRAY, BigInteger, Boolean, Connection, Table, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.selectable import TextualSelect
from sqlalchemy.types import TypeEngine

from app.core.database.batching import NotShared
from app.core.database.errors import LOCK_TIMEOUT, sqlstate_of
from app.core.resources.inserts import quote, type_of
from app.core.resources.rows import row_class

_LOCK_TIMEOUT = 50
"""Milliseconds that a shared statement waits for a row. PostgreSQL looks for deadlocks after 1,000."""

_NOT_SUPPORTED = "0A000"
"""Citus locks no rows of several shards."""
_FREE = (
    "AND {name}.id = ANY(ARRAY("
    "SELECT id FROM {name} WHERE id = ANY(CAST(:ids AS bigint[])) FOR NO KEY UPDATE SKIP LOCKED)) "
)


@dataclass(frozen=True, slots=True)
class Update:
    """What to change of a row, whatever its version is or if it is this one."""

    row_id: int
    version: int | None
    changes: Mapping[str, Any]


class Updates:
    """The updates of some columns of a table, by one statement for any number of rows and any of the columns.

    Parameters
    ----------
    table
        It has the columns `id` and `version`.
    names
        The columns that may be changed.
    """

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        self._columns = [table.c[name] for name in names]
        self.row: Any = row_class(table)
        self._names = frozenset(names)
        # Of an array of arrays `unnest` makes no rows of arrays, and SQLAlchemy adds no `onupdate` to a text.
        possible = not any(isinstance(column.type, ARRAY) for column in self._columns)
        possible = possible and all(column.onupdate is None for column in table.c)
        self._statement = self._make(table) if names and possible else None
        self._of_free_rows = self._make(table, _FREE) if names and possible else None

    def can_share(self, update: Update) -> bool:
        """Return whether the statement can make this change."""
        return self._statement is not None and bool(update.changes) and update.changes.keys() <= self._names

    def run(self, connection: Connection, asked: Sequence[Update]) -> Sequence[Any]:
        """Change the rows, and return them; None for one that is not there or has another version.

        `NotShared` stands for all but one of several updates of a row, and for a row that is locked: it would hold up
        the others. Where one is, it also stands for rows that are not there.
        """
        firsts = {update.row_id: update for update in reversed(asked)}
        # In order, so that two statements seldom wait for each other; where they do, the lock timeout ends it.
        parameters = self._parameters([firsts[row_id] for row_id in sorted(firsts)])
        found: Sequence[Any] = ()
        missing: NotShared | None = None
        for statement in (self._statement, self._of_free_rows):
            try:
                found = connection.execute(cast("TextualSelect", statement), parameters).all()
                break
            except DBAPIError as error:
                if sqlstate_of(error) not in (LOCK_TIMEOUT, _NOT_SUPPORTED):
                    raise
                missing = NotShared()
        rows = {row.id: row for row in map(self.row, found)}
        return [
            rows.get(update.row_id, missing) if firsts[update.row_id] is update else NotShared() for update in asked
        ]

    def _make(self, table: Table, only: str = "") -> TextualSelect:
        name = quote(table.name)
        columns = [(quote(column.name), type_of(column), number) for number, column in enumerate(self._columns)]
        sets = ", ".join(
            f"{column} = CASE WHEN given.has_{n} THEN given.value_{n} ELSE {name}.{column} END"
            for column, _, n in columns
        )
        arrays = "".join(f", CAST(:has_{n} AS boolean[]), CAST(:value_{n} AS {kind}[])" for _, kind, n in columns)
        names = "".join(f", has_{n}, value_{n}" for _, _, n in columns)
        statement = text(
            f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT}; UPDATE {name} SET {sets} "  # noqa: S608
            f"FROM unnest(CAST(:ids AS bigint[]), CAST(:versions AS bigint[]){arrays}) AS given(id, version{names}) "
            f"WHERE {name}.id = given.id AND (given.version IS NULL OR {name}.version = given.version) "
            f"{only.format(name=name)}RETURNING {', '.join(f'{name}.{quote(known.name)}' for known in table.c)}"
        )
        types: dict[str, TypeEngine[Any]] = {"ids": BigInteger(), "versions": BigInteger()}
        types |= {f"has_{n}": Boolean() for _, _, n in columns}
        types |= {f"value_{n}": column.type for n, column in enumerate(self._columns)}
        bound = (bindparam(parameter, type_=ARRAY(kind)) for parameter, kind in types.items())
        return statement.bindparams(*bound).columns(*table.c)

    def _parameters(self, updates: Sequence[Update]) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "ids": [update.row_id for update in updates],
            "versions": [update.version for update in updates],
        }
        for number, column in enumerate(self._columns):
            parameters[f"has_{number}"] = [column.key in update.changes for update in updates]
            parameters[f"value_{number}"] = [update.changes.get(column.key) for update in updates]
        return parameters
