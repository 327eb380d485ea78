"""Idempotency keys: a transaction that may be requested several times, and happens once.

The key is inserted by the transaction that does the work, and the result is stored with it: both exist, or neither. A
repetition that comes meanwhile waits for the first request, for at most the lock timeout; a later one gets the stored
result. A request that fails stores nothing. No statement here fails because a key exists, so none needs a savepoint,
and none locks rows that others use.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Index,
    Interval,
    LargeBinary,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import DateTime

from app.core.database.base import Base
from app.core.database.database import Keyed, Mode
from app.core.database.errors import LOCK_TIMEOUT, sqlstate_of
from app.core.database.once import Once
from app.core.database.results import Results
from app.core.errors import APIError, DatabaseError

T = TypeVar("T")

_LIFE = timedelta(hours=24)
_PURGE = 1000
"""Keys that are deleted by one statement."""
_TRIES = 3
"""A key that expires between two statements is tried again."""


class IdempotencyKey(Base):
    """A key that was used, and the result of its operation."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    caller: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True, server_default=text("''"))
    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    rows: Mapped[Any] = mapped_column(JSONB)
    """The inserted rows as they were when they were answered, or the result of a transaction."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class IdempotencyKeyReused(APIError):
    """The key came before, with another request."""

    status, default_message = 422, "This Idempotency-Key was used for another request"


class IdempotencyKeyInUse(APIError):
    """The first request with this key is still in flight."""

    status, default_message = 409, "A request with this Idempotency-Key is still in flight"


expired = IdempotencyKey.created_at < func.now() - literal(_LIFE, Interval)
"""The condition that a key has expired."""
_this = (IdempotencyKey.caller == bindparam("of_caller")) & (IdempotencyKey.key == bindparam("of_key"))
_CLAIM = (
    insert(IdempotencyKey)
    .values(rows=literal_column("'null'::jsonb"))
    .on_conflict_do_nothing(index_elements=["caller", "key"])
    .returning(IdempotencyKey.key)
)
_FIND = select(IdempotencyKey.fingerprint, cast(IdempotencyKey.rows, Text).label("result"), expired.label("expired"))
_STORE = update(IdempotencyKey).where(_this).values(rows=cast(bindparam("result", type_=Text), JSONB))
_FORGET = delete(IdempotencyKey).where(_this, expired)
_old = select(IdempotencyKey.caller, IdempotencyKey.key).where(expired).order_by(IdempotencyKey.created_at)
_PURGE_SOME = delete(IdempotencyKey).where(
    tuple_(IdempotencyKey.caller, IdempotencyKey.key).in_(_old.limit(_PURGE)), expired
)


def claim(connection: Connection, once: Once, fingerprint: bytes) -> str | None:
    """Insert a key in the current transaction, or return the stored result of its first request, as JSON.

    Raises
    ------
    IdempotencyKeyReused
        The key belongs to another request.
    IdempotencyKeyInUse
        The first request with this key held it for longer than the lock timeout.
    DatabaseError
        The key expired between the statements of each attempt.
    """
    this = {"of_caller": once.caller, "of_key": once.key}
    for _ in range(_TRIES):
        if insert_key(connection, once, fingerprint):
            return None
        found = connection.execute(_FIND.where(_this), this).one_or_none()
        if found is not None and not found.expired:
            if bytes(found.fingerprint) != fingerprint:
                raise IdempotencyKeyReused
            result: str = found.result
            return result
        connection.execute(_FORGET, this)
    raise DatabaseError


def insert_key(connection: Connection, once: Once, fingerprint: bytes) -> bool:
    """Insert a key in the current transaction; return False where it is there already."""
    try:
        values = {"caller": once.caller, "key": once.key, "fingerprint": fingerprint}
        return connection.execute(_CLAIM, values).one_or_none() is not None
    except DBAPIError as error:
        if sqlstate_of(error) == LOCK_TIMEOUT:
            raise IdempotencyKeyInUse from error
        raise


class _Replay(str):
    """The stored result of the first request, as JSON."""

    __slots__ = ()


async def run_once(db: Keyed, work: Callable[[Connection], T], results: Results, asked: tuple[object, ...]) -> T:
    """Run a transaction, unless it was committed for this key before: then return its first result."""
    once = db.key
    fingerprint = once.fingerprint(*asked)

    def unit(connection: Connection) -> Any:  # noqa: ANN401 - a result or a `_Replay`
        stored = claim(connection, once, fingerprint)
        if stored is not None:
            return _Replay(stored)
        result = work(connection)
        this = {"of_caller": once.caller, "of_key": once.key}
        connection.execute(_STORE, {**this, "result": results.to_json(result)})
        return result

    result = await db.database.run_in_turn(
        once.turn, unit, mode=Mode.TRANSACTION, repeatable=True, late=IdempotencyKeyInUse
    )
    if not isinstance(result, _Replay):
        first: T = result
        return first
    once.on_replay()
    again: T = results.from_json(result)
    return again


def delete_expired(connection: Connection) -> int:
    """Delete keys that have expired, some at a time, and return how many."""
    return connection.execute(_PURGE_SOME).rowcount
