"""A table as a resource: get, list, insert, update and delete, each one statement.

Rows are tuples with the columns of the mapped class as attributes, and are typed as the class. They belong to no
session, so they have no relationships; what needs those is a store function of its own.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, cast, overload

from pydantic import BaseModel
from sqlalchemy import ARRAY, BigInteger, Connection, Row, any_, bindparam, select
from sqlalchemy.orm import Session
from typing_extensions import TypeVar

from app.core.api.conditional_requests import UNCONDITIONAL
from app.core.api.pagination import PageQuery
from app.core.database import Database
from app.core.database.base import table_of
from app.core.database.batching import NotShared
from app.core.database.database import Keyed, Mode
from app.core.database.errors import map_constraints
from app.core.database.idempotency import IdempotencyKeyInUse
from app.core.database.unit_of_work import run_on
from app.core.errors import APIError
from app.core.resources.changes import Changes, Conditional
from app.core.resources.inserts import Inserts
from app.core.resources.keyed import Asked, Inserted, insert_each_once, insert_shared
from app.core.resources.pages import Filter, Pages

M = TypeVar("M")
C = TypeVar("C")
U = TypeVar("U", default=Mapping[str, Any])
Q = TypeVar("Q", bound=PageQuery, default=PageQuery)

Handle = Connection | Session


class Resource(Generic[M, C, U, Q]):
    """The rows of a table. Make it once, in a module.

    Every method takes a `Database`, and then is a unit of work to be awaited, or the connection or session of another
    store function, and then is a part of its transaction.

    Parameters
    ----------
    model
        The mapped class, with the columns of `Versioned`.
    create
        What is inserted: a pydantic model or another class whose attributes are columns of the table.
    patch
        What is changed: a `TypedDict`, or a pydantic model of which the fields that were set count.
    query, filters
        What it can be sorted and filtered by: those of `Pages`.
    not_found
        Makes the error for an id without a row.
    constraints
        Errors by the names of the table's constraints and unique indexes, for every statement of the service that
        violates one.

    Attributes
    ----------
    list, stream
        Read a page, and all rows: see `Pages`.
    """

    def __init__(
        self,
        model: type[M],
        *,
        create: type[C],
        patch: type[U] | None = None,
        query: type[Q] | None = None,
        filters: Mapping[str, Filter] | None = None,
        not_found: Callable[[int], APIError],
        constraints: Mapping[str, type[APIError]] | None = None,
    ) -> None:
        table = table_of(model, "id", "version")
        patched = _fields(patch) if patch else []
        for name in (*_fields(create), *patched):
            if name not in table.c:
                raise TypeError(f"{name} of {create.__name__} or its patch is not a column of {table.name}")
        known = {made.name for made in table.constraints} | {made.name for made in table.indexes}
        if unknown := set(constraints or ()) - known:
            raise TypeError(f"{table.name} has no constraint {', '.join(sorted(unknown))}")
        self._not_found = not_found
        map_constraints(constraints or {})
        self._inserts = Inserts(table, _fields(create))
        self._changes = Changes(table, patched, self._find, not_found)
        pages = Pages(model, query, filters)
        self.list, self.stream = pages.list, pages.stream
        self._by_ids = select(*table.c).where(table.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
        # Kept, because batches are told apart by them.
        self._get_batch, self._insert_batch, self._once_batch = (
            self._get_each,
            self._insert_each,
            self._insert_shared,
        )

    @overload
    def get(self, db: Database, row_id: int) -> Coroutine[Any, Any, M]: ...
    @overload
    def get(self, db: Handle, row_id: int) -> M: ...
    def get(self, db: Database | Handle, row_id: int) -> Any:
        """Read a row, or raise `not_found`. Reads at the same time share a statement."""
        if isinstance(db, Database):
            return self._get(db, row_id)
        return run_on(db, self._find, row_id, session=False)

    async def _get(self, db: Database, row_id: int) -> M:
        return self._found(await db.run_batched(Mode.READ, self._get_batch, row_id), row_id)

    def _find(self, connection: Connection, row_id: int) -> Row[Any]:
        (row,) = self._get_each(connection, [row_id])
        return cast("Row[Any]", self._found(row, row_id))

    def _found(self, row: M | None, row_id: int) -> M:
        if row is None:
            raise self._not_found(row_id)
        return row

    def _get_each(self, connection: Connection, ids: Sequence[int]) -> Sequence[M | None]:
        found = connection.execute(self._by_ids, {"ids": list(set(ids))}).all()
        rows = {row.id: row for row in map(self._inserts.row, found)}
        return [rows.get(row_id) for row_id in ids]

    @overload
    def insert(self, db: Database | Keyed, row: C) -> Coroutine[Any, Any, M]: ...
    @overload
    def insert(self, db: Handle, row: C) -> M: ...
    def insert(self, db: Database | Keyed | Handle, row: C) -> Any:
        """Insert a row. Inserts at the same time share a statement and its commit, with a key or without one."""
        if isinstance(db, Database):
            return db.run_batched(Mode.WRITE, self._insert_batch, row)
        if isinstance(db, Keyed):
            return self._insert_once(db, row)
        (new,) = run_on(db, self._insert_each, [row], session=False)
        return new

    @overload
    def insert_many(self, db: Database | Keyed, rows: Sequence[C]) -> Coroutine[Any, Any, Sequence[M]]: ...
    @overload
    def insert_many(self, db: Handle, rows: Sequence[C]) -> Sequence[M]: ...
    def insert_many(self, db: Database | Keyed | Handle, rows: Sequence[C]) -> Any:
        """Insert rows by one statement, all or none, and return them in the order given."""
        if isinstance(db, Database):
            return db.run(Mode.WRITE, lambda connection: self._insert_each(connection, rows))
        if isinstance(db, Keyed):
            return self._insert_many_once(db, rows)
        return run_on(db, self._insert_each, rows, session=False)

    def _insert_each(self, connection: Connection, rows: Sequence[C]) -> Sequence[M]:
        new = connection.execute(self._inserts.plain, self._inserts.values(rows)).all()
        return [*map(self._inserts.row, new)]

    async def _insert_once(self, db: Keyed, row: C) -> M:
        asked = Asked(db.key, db.key.fingerprint(row), [row])
        if not db.database.is_taken(db.key.turn):
            with suppress(NotShared):
                inserted = await db.database.run_batched(Mode.AUTOCOMMIT, self._once_batch, asked, repeatable=True)
                (new,) = cast("Inserted", inserted).rows(asked)  # an error is raised by the batch
                return cast("M", new)
        (new,) = await self._insert_in_turn(db, asked)
        return cast("M", new)

    async def _insert_many_once(self, db: Keyed, rows: Sequence[C]) -> Sequence[M]:
        return cast("Sequence[M]", await self._insert_in_turn(db, Asked(db.key, db.key.fingerprint(*rows), rows)))

    async def _insert_in_turn(self, db: Keyed, asked: Asked) -> Sequence[Any]:
        (inserted,) = await db.database.run_in_turn(
            db.key.turn,
            lambda connection: insert_each_once(connection, self._inserts, [asked]),
            repeatable=True,
            late=IdempotencyKeyInUse,
        )
        if isinstance(inserted, Exception):
            raise inserted
        return inserted.rows(asked)

    def _insert_shared(self, connection: Connection, asked: Sequence[Asked]) -> Sequence[Inserted | Exception]:
        return insert_shared(connection, self._inserts, asked)

    @overload
    def update(
        self, db: Database, row_id: int, patch: U, conditions: Conditional = UNCONDITIONAL
    ) -> Coroutine[Any, Any, M]: ...
    @overload
    def update(
        self, db: Handle, row_id: int, patch: U | Mapping[str, Any], conditions: Conditional = UNCONDITIONAL
    ) -> M: ...
    def update(
        self,
        db: Database | Handle,
        row_id: int,
        patch: U | Mapping[str, Any],
        conditions: Conditional = UNCONDITIONAL,
    ) -> Any:
        """Change what a patch names, or nothing where it is empty, if the conditions of the request hold.

        In a store function, `patch` may name columns that clients do not set.

        Updates at the same time share a statement and its commit, unless they have several conditions.

        Raises
        ------
        PreconditionFailed
            The row has another version; nothing was changed. `not_found` where there is no row.
        """
        changes = (
            patch.model_dump(exclude_unset=True) if isinstance(patch, BaseModel) else cast("dict[str, Any]", patch)
        )
        if isinstance(db, Database):
            return self._update(db, row_id, changes, conditions)
        return run_on(db, self._changes.update, row_id, changes, conditions, session=False)

    async def _update(self, db: Database, row_id: int, changes: Mapping[str, Any], conditions: Conditional) -> M:
        turn = (self._changes, row_id)
        if not db.is_taken(turn) and (shared := self._changes.shared(row_id, changes, conditions)) is not None:
            with suppress(NotShared):
                row = await db.run_batched(Mode.AUTOCOMMIT, self._changes.update_each, shared)
                if row is None:
                    raise await db.run(Mode.AUTOCOMMIT, partial(self._changes.reason, row_id=row_id, given=conditions))
                return cast("M", row)
        work = partial(self._changes.update, row_id=row_id, changes=changes, given=conditions)
        return cast("M", await db.run_in_turn(turn, work))

    @overload
    def delete(
        self, db: Database, row_id: int, conditions: Conditional = UNCONDITIONAL
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def delete(self, db: Handle, row_id: int, conditions: Conditional = UNCONDITIONAL) -> None: ...
    def delete(self, db: Database | Handle, row_id: int, conditions: Conditional = UNCONDITIONAL) -> Any:
        """Delete a row if the conditions of the request hold; raises as `update` does."""
        if isinstance(db, Database):
            work = partial(self._changes.delete, row_id=row_id, given=conditions)
            return db.run_in_turn((self._changes, row_id), work)
        return run_on(db, self._changes.delete, row_id, conditions, session=False)


def _fields(kind: type[Any]) -> list[str]:
    """List the fields of a pydantic model, a dataclass or a `TypedDict`."""
    fields: Mapping[str, Any] = getattr(kind, "model_fields", None) or getattr(kind, "__annotations__", {})
    return list(fields)
