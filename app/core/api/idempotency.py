"""`Idempotency-Key`: a create that may be sent again and again, and happens once.

The key is stored by the very statement that inserts the rows, together with a fingerprint of the request and the
rows as they were then: all of it is there, or nothing is. The header is that of the IETF draft
`draft-ietf-httpapi-idempotency-key-header-07`; the semantics are Stripe's. A request that fails stores nothing.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import (
    CTE,
    Connection,
    Interval,
    LargeBinary,
    Row,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app.core.api.openapi import documented, header_parameter
from app.core.database.errors import sqlstate_of
from app.core.database.models import IdempotencyKey
from app.core.errors import APIError, InvalidInput
from app.core.observability.instruments import IDEMPOTENT_REPLAYS

_LIFE = timedelta(hours=24)
# A create brings one key and may take two away: the table shrinks while it is used, and nobody has to sweep it.
_PURGE = 2

_KEY_TABLE = "idempotency_keys"
_KEY_CONSTRAINT = "pk_idempotency_keys"
_KEY_IS_LOCKED = "55P03"

_IN_HEADER = ["header", "Idempotency-Key"]
_KEY = TypeAdapter(Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]*$")])
_PARAMETER = header_parameter(
    "Idempotency-Key",
    "Makes a repeated request safe, for 24 hours",
    **_KEY.json_schema(),
    examples=["c1e8b5f0-order-17"],
)

_expired = IdempotencyKey.created_at < func.now() - literal(_LIFE, Interval)


class IdempotencyKeyReused(APIError):
    """The key came before, with another request."""

    code, status = "IDEMPOTENCY_KEY_REUSED", 422
    default_message = "This Idempotency-Key was used for another request"


class IdempotencyKeyInUse(APIError):
    """The first request with this key is still under way."""

    code, status = "IDEMPOTENCY_KEY_IN_USE", 409
    default_message = "A request with this Idempotency-Key is still in flight"


@dataclass(frozen=True)
class Once:
    """The promise that a request is to happen once.

    Attributes
    ----------
    key
        The header's value.
    fingerprint
        32 bytes that tell one request from another: SHA-256 over the operation and the body's meaning.
    """

    key: str
    fingerprint: bytes

    @classmethod
    def of(cls, key: str | None, operation: str, body: BaseModel) -> "Once | None":
        """Bind `key`, if there is one, to the request that carries it."""
        if key is None:
            return None
        return cls(key, hashlib.sha256(f"{operation}\n{body.model_dump_json()}".encode()).digest())

    def parameters(self) -> dict[str, Any]:
        """Give the values that a statement with `remember` takes."""
        return {"key": self.key, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class Inserted:
    """The new rows in the order that was asked for, or those of the first time."""

    rows: Sequence[Row[Any]]
    replayed: bool = False

    def headers(self) -> dict[str, str]:
        """Make the header field that tells a repeated answer from a first one, and count it."""
        if not self.replayed:
            return {}
        IDEMPOTENT_REPLAYS.inc()
        return {"Idempotent-Replayed": "true"}


@documented(_PARAMETER)
async def _one_key(request: Request) -> str | None:
    given = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidInput(errors=[{"loc": _IN_HEADER, "msg": "Must be sent once", "type": "duplicate"}])
    try:
        return _KEY.validate_python(given[0])
    except ValidationError as error:
        problems = [{"loc": _IN_HEADER, "msg": problem["msg"], "type": problem["type"]} for problem in error.errors()]
        raise InvalidInput(errors=problems) from None


Key = Annotated[str | None, Depends(_one_key)]
"""The header's value, if it was sent."""


def insert_once(
    connection: Connection, table: Table, once: Once, insert_rows: Callable[[], Sequence[Row[Any]]]
) -> Inserted:
    """Insert rows, unless they were inserted for this key before: then read what was answered.

    Parameters
    ----------
    connection
        Of a unit of work that may be repeated.
    table
        Where the rows go; it has an `id` that grows.
    once
        The key, and the request that it belongs to.
    insert_rows
        Runs the one statement that inserts them, to which `remember` was added, with `once.parameters()`.

    Raises
    ------
    IdempotencyKeyReused
        The key belongs to another request.
    IdempotencyKeyInUse
        The first request with this key held its row for longer than the lock timeout.
    """
    while True:
        try:
            with connection.begin_nested():
                return Inserted(insert_rows())
        except (IntegrityError, OperationalError) as error:
            if _waited_for_key(error):
                raise IdempotencyKeyInUse from error
            # Whichever constraint it is: a row that is to be unique is there as the key is, from the first time.
            answered = isinstance(error, IntegrityError) and _was_answered(connection, once)
            if not answered and _constraint_of(error) != _KEY_CONSTRAINT:
                raise
        if answered:
            return Inserted(_first_rows(connection, table, once), replayed=True)
        # The key expired, or was purged since: either way its place is free now.
        _forget_expired(connection, once)


def _waited_for_key(error: DBAPIError) -> bool:
    """Tell whether somebody else held the key's row, not one of the rows that are to be inserted."""
    where: str | None = getattr(getattr(error.orig, "diag", None), "context", None)
    return sqlstate_of(error) == _KEY_IS_LOCKED and _KEY_TABLE in (where or "")


def _constraint_of(error: DBAPIError) -> str | None:
    name: str | None = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    return name


def remember(rows: CTE) -> tuple[CTE, CTE]:
    """Make the parts (`add_cte`) of an inserting statement that store the key with `rows`, and purge old keys.

    The statement takes `Once.parameters`. It fails with 23505 on `pk_idempotency_keys` where the key is there, and
    then inserts nothing.
    """
    whole_rows = func.jsonb_agg(func.to_jsonb(rows.table_valued()))
    stored = insert(IdempotencyKey).from_select(
        ["key", "fingerprint", "rows"],
        select(bindparam("key", type_=Text), bindparam("fingerprint", type_=LargeBinary), whole_rows).select_from(rows),
    )
    old = select(IdempotencyKey.key).where(_expired).order_by(IdempotencyKey.created_at).limit(_PURGE)
    purged = delete(IdempotencyKey).where(IdempotencyKey.key.in_(old.with_for_update(skip_locked=True)))
    return stored.cte("stored"), purged.cte("purged")


def _was_answered(connection: Connection, once: Once) -> bool:
    """Tell whether the key has its answer; an expired one has none, and is forgotten."""
    columns = select(IdempotencyKey.fingerprint, _expired.label("expired"))
    found = connection.execute(columns.where(IdempotencyKey.key == once.key)).one_or_none()
    if found is None or found.expired:
        return False
    if bytes(found.fingerprint) != once.fingerprint:
        raise IdempotencyKeyReused
    return True


def _first_rows(connection: Connection, table: Table, once: Once) -> Sequence[Row[Any]]:
    rows = text(
        "SELECT first.* FROM idempotency_keys,"  # noqa: S608 - the name is ours
        f" jsonb_populate_recordset(NULL::{table.name}, idempotency_keys.rows) AS first"
        " WHERE idempotency_keys.key = :key ORDER BY first.id"
    )
    return connection.execute(rows.columns(*table.c), {"key": once.key}).all()


def _forget_expired(connection: Connection, once: Once) -> None:
    """Make place for a key whose time is over."""
    connection.execute(delete(IdempotencyKey).where(IdempotencyKey.key == once.key, _expired))
