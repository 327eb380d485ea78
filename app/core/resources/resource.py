"""A table as a resource: get, insert, update and delete, each one statement.

Rows are SQLAlchemy's: they have the columns of the mapped class as attributes, and are typed as the class. They belong
to no session, so they have no relationships; what needs those is a store function of its own.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, cast, overload

from pydantic import BaseModel
from sqlalchemy import ARRAY, BigInteger, Boolean, Connection, Row, Table, any_, bindparam, delete, select, update
from sqlalchemy.orm import Session
from typing_extensions import TypeVar

from app.core.api.conditional_requests import UNCONDITIONAL, ConditionalRequest, PreconditionFailed, Preconditions
from app.core.database import Database
from app.core.database.database import Keyed, Mode
from app.core.database.errors import map_constraints
from app.core.database.unit_of_work import run_on
from app.core.errors import APIError
from app.core.resources.inserts import Inserts
from app.core.resources.keyed import Asked, Inserted, insert_each_once

M = TypeVar("M")
C = TypeVar("C")
U = TypeVar("U", default=Mapping[str, Any])

Handle = Connection | Session
Conditional = ConditionalRequest | Preconditions

_MAX_VERSION = 2**63 - 1


class Resource(Generic[M, C, U]):
    """The rows of a table, by id. Make it once, in a module.

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
    not_found
        Makes the error for an id without a row.
    constraints
        Errors by the names of constraints, for every statement of the service that violates one.
    """

    def __init__(
        self,
        model: type[M],
        *,
        create: type[C],
        patch: type[U] | None = None,
        not_found: Callable[[int], APIError],
        constraints: Mapping[str, type[APIError]] | None = None,
    ) -> None:
        table = cast("Table", model.__table__)  # type: ignore[attr-defined]  # it is mapped
        for name in (*_fields(create), *(_fields(patch) if patch else ())):
            if name not in table.c:
                raise TypeError(f"{name} of {create.__name__} or its patch is not a column of {table.name}")
        self._not_found = not_found
        map_constraints(constraints or {})
        self._columns = table.c
        self._inserts = Inserts(table, _fields(create))
        this = table.c.id == bindparam("this_id", type_=BigInteger)
        self._by_ids = select(*table.c).where(table.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
        # Sets what else it is given parameters for, by the names of the columns.
        self._update = update(table).where(this).returning(*table.c)
        self._delete = delete(table).where(this).returning(table.c.id)
        self._conditional: dict[tuple[bool, bool, bool], Any] = {}
        # Kept, because batches are told apart by them.
        self._get_batch, self._insert_batch, self._once_batch = (
            self._get_each,
            self._insert_each,
            self._insert_each_once,
        )

    @overload
    def get(self, db: Database, row_id: int) -> Coroutine[Any, Any, M]: ...
    @overload
    def get(self, db: Handle, row_id: int) -> M: ...
    def get(self, db: Database | Handle, row_id: int) -> Any:
        """Read a row, or raise `not_found`. Reads at the same time share a statement."""
        if isinstance(db, Database):
            return self._get(db, row_id)
        (row,) = run_on(db, self._get_each, [row_id], session=False)
        return self._found(row, row_id)

    async def _get(self, db: Database, row_id: int) -> M:
        return self._found(await db.run_batched(Mode.READ, self._get_batch, row_id), row_id)

    def _found(self, row: M | None, row_id: int) -> M:
        if row is None:
            raise self._not_found(row_id)
        return row

    def _get_each(self, connection: Connection, ids: Sequence[int]) -> Sequence[M | None]:
        rows = {row.id: row for row in connection.execute(self._by_ids, {"ids": list(set(ids))})}
        return [cast("M | None", rows.get(row_id)) for row_id in ids]

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
        return cast("Sequence[M]", connection.execute(self._inserts.plain, self._inserts.values(rows)).all())

    async def _insert_once(self, db: Keyed, row: C) -> M:
        asked = Asked(db.key, db.key.fingerprint(row), [row])
        inserted = await db.database.run_batched(Mode.AUTOCOMMIT, self._once_batch, asked, repeatable=True)
        (new,) = cast("Inserted", inserted).rows(asked)  # an error is raised by the batch
        return cast("M", new)

    async def _insert_many_once(self, db: Keyed, rows: Sequence[C]) -> Sequence[M]:
        asked = Asked(db.key, db.key.fingerprint({"items": rows}), rows)
        (inserted,) = await db.database.run(
            Mode.AUTOCOMMIT, lambda connection: self._insert_each_once(connection, [asked]), repeatable=True
        )
        if isinstance(inserted, Exception):
            raise inserted
        return cast("Sequence[M]", inserted.rows(asked))

    def _insert_each_once(self, connection: Connection, asked: Sequence[Asked]) -> Sequence[Inserted | Exception]:
        return insert_each_once(connection, self._inserts, asked)

    @overload
    def update(
        self, db: Database, row_id: int, patch: U, conditions: Conditional = UNCONDITIONAL
    ) -> Coroutine[Any, Any, M]: ...
    @overload
    def update(self, db: Handle, row_id: int, patch: U, conditions: Conditional = UNCONDITIONAL) -> M: ...
    def update(self, db: Database | Handle, row_id: int, patch: U, conditions: Conditional = UNCONDITIONAL) -> Any:
        """Change what a patch names, or nothing where it is empty, if the conditions of the request hold.

        Raises
        ------
        PreconditionFailed
            The row has another version; nothing was changed. `not_found` where there is no row.
        """
        changes = (
            patch.model_dump(exclude_unset=True) if isinstance(patch, BaseModel) else cast("dict[str, Any]", patch)
        )
        if isinstance(db, Database):
            mode = Mode.AUTOCOMMIT
            return db.run(mode, lambda connection: self._change(connection, row_id, changes, conditions))
        return run_on(db, self._change, row_id, changes, conditions, session=False)

    def _change(self, connection: Connection, row_id: int, changes: Mapping[str, Any], given: Conditional) -> M:
        conditions = _preconditions(given)
        if not changes:
            return self._check(connection, row_id, conditions)
        statement, parameters = self._with_conditions(self._update, conditions)
        row = connection.execute(statement, {"this_id": row_id, **parameters, **changes}).one_or_none()
        if row is None:
            self._explain(connection, row_id, conditions)
        return cast("M", row)

    @overload
    def delete(
        self, db: Database, row_id: int, conditions: Conditional = UNCONDITIONAL
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def delete(self, db: Handle, row_id: int, conditions: Conditional = UNCONDITIONAL) -> None: ...
    def delete(self, db: Database | Handle, row_id: int, conditions: Conditional = UNCONDITIONAL) -> Any:
        """Delete a row if the conditions of the request hold; raises as `update` does."""
        if isinstance(db, Database):
            return db.run(Mode.AUTOCOMMIT, lambda connection: self._remove(connection, row_id, conditions))
        return run_on(db, self._remove, row_id, conditions, session=False)

    def _remove(self, connection: Connection, row_id: int, given: Conditional) -> None:
        conditions = _preconditions(given)
        statement, parameters = self._with_conditions(self._delete, conditions)
        if connection.execute(statement, {"this_id": row_id, **parameters}).one_or_none() is None:
            self._explain(connection, row_id, conditions)

    def _with_conditions(self, statement: Any, conditions: Preconditions) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
        """Add the conditions to an UPDATE or a DELETE, so that checking and changing are one statement."""
        match, none_match = conditions.if_match, conditions.if_none_match
        matches, differs = match is not None and "*" not in match, none_match is not None
        if not (matches or differs):
            return statement, {}
        shape = (statement is self._update, matches, differs)
        if (made := self._conditional.get(shape)) is None:
            made = statement
            if matches:
                made = made.where(self._columns.version == any_(bindparam("if_match", type_=ARRAY(BigInteger))))
            if differs:
                other = ~(self._columns.version == any_(bindparam("if_none_match", type_=ARRAY(BigInteger))))
                made = made.where(other, ~bindparam("if_none_match_star", type_=Boolean))
            self._conditional[shape] = made
        parameters: dict[str, Any] = {"if_match": _versions(match)} if matches else {}
        if differs:
            parameters |= {"if_none_match": _versions(none_match), "if_none_match_star": "*" in (none_match or ())}
        return made, parameters

    def _check(self, connection: Connection, row_id: int, conditions: Preconditions) -> M:
        """Read a row, and check the conditions."""
        row = cast("Row[Any] | None", self._get_each(connection, [row_id])[0])
        if row is None:
            raise self._not_found(row_id)
        if not conditions.hold(row.version):
            raise PreconditionFailed
        return cast("M", row)

    def _explain(self, connection: Connection, row_id: int, conditions: Preconditions) -> None:
        """Raise the reason why nothing was changed."""
        self._check(connection, row_id, conditions)
        raise PreconditionFailed  # it has another version by now


def _preconditions(given: Conditional) -> Preconditions:
    return given.preconditions if isinstance(given, ConditionalRequest) else given


def _versions(tags: frozenset[str] | None) -> list[int]:
    """Return the tags that can be versions: others match nothing."""
    numbers = (int(tag) for tag in tags or () if tag.isascii() and tag.isdecimal() and len(tag) < 20)
    return [number for number in numbers if number <= _MAX_VERSION]


def _fields(kind: type[Any]) -> list[str]:
    """List the fields of a pydantic model, a dataclass or a `TypedDict`."""
    fields: Mapping[str, Any] = getattr(kind, "model_fields", None) or getattr(kind, "__annotations__", {})
    return list(fields)
