"""`Idempotency-Key`: a create that may be sent again and again, and happens once.

The key is stored by the very statement that inserts the rows, together with a fingerprint of the request and the
rows as they were then: all of it is there, or nothing is. The header is that of the IETF draft
`draft-ietf-httpapi-idempotency-key-header-07`; the semantics are Stripe's. A request that fails stores nothing.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel, StringConstraints
from sqlalchemy import CTE, Interval, delete, func, insert, literal, select

from app.core.database import ReadConnection, WriteConnection
from app.core.errors import APIError, InvalidInput
from app.items.models import IdempotencyKey

_LIFE = timedelta(hours=24)
# A create brings one key and may take two away: the table shrinks while it is used, and nobody has to sweep it.
_PURGE = 2

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


async def _one_key(
    request: Request,
    idempotency_key: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]*$")] | None,
        Header(
            alias="Idempotency-Key",
            description="Makes a repeated request safe, for 24 hours",
            examples=["c1e8b5f0-order-17"],
        ),
    ] = None,
) -> str | None:
    if len(request.headers.getlist("idempotency-key")) > 1:
        problem = {"loc": ["header", "idempotency-key"], "msg": "Must be sent once", "type": "duplicate"}
        raise InvalidInput(errors=[problem])
    return idempotency_key


Key = Annotated[str | None, Depends(_one_key)]


def remember(once: Once, rows: CTE) -> tuple[CTE, CTE]:
    """Make the parts of an inserting statement that store the key with `rows`, and purge old keys.

    The statement fails with 23505 on `pk_idempotency_keys` where the key is there, and then inserts nothing.
    """
    whole_rows = func.jsonb_agg(func.to_jsonb(rows.table_valued()))
    stored = insert(IdempotencyKey).from_select(
        ["key", "fingerprint", "rows"],
        select(literal(once.key), literal(once.fingerprint), whole_rows).select_from(rows),
    )
    old = select(IdempotencyKey.key).where(_expired).order_by(IdempotencyKey.created_at).limit(_PURGE)
    purged = delete(IdempotencyKey).where(IdempotencyKey.key.in_(old.with_for_update(skip_locked=True)))
    return stored.cte("stored"), purged.cte("purged")


def was_answered(connection: ReadConnection, once: Once) -> bool:
    """Tell whether the key has its answer; an expired one has none, and is forgotten.

    Raises
    ------
    IdempotencyKeyReused
        The key belongs to another request.
    """
    columns = select(IdempotencyKey.fingerprint, _expired.label("expired"))
    found = connection.execute(columns.where(IdempotencyKey.key == once.key)).one_or_none()
    if found is None or found.expired:
        return False
    if bytes(found.fingerprint) != once.fingerprint:
        raise IdempotencyKeyReused
    return True


def forget_expired(connection: WriteConnection, once: Once) -> None:
    """Make place for a key whose time is over."""
    connection.execute(delete(IdempotencyKey).where(IdempotencyKey.key == once.key, _expired))
