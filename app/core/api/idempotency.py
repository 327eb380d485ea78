"""`Idempotency-Key`: a request that may be sent several times, and is carried out once.

The header is that of the IETF draft `draft-ietf-httpapi-idempotency-key-header-07`; the semantics are Stripe's. The key
is stored with the result, in the same transaction (`app/core/database/idempotency.py`).
"""

from typing import Annotated

from fastapi import Depends, Request, Response
from pydantic import StringConstraints, TypeAdapter, ValidationError

from app.core.api.authentication import caller_of
from app.core.api.openapi.operations import Description, documented, errors, header, header_parameter
from app.core.database.idempotency import IdempotencyKeyInUse, IdempotencyKeyReused
from app.core.database.once import Once
from app.core.errors import InvalidInput
from app.core.observability.instruments import IDEMPOTENT_REPLAYS

__all__ = ["IdempotencyKey", "IdempotencyKeyInUse", "IdempotencyKeyReused"]

_IN_HEADER = ["header", "Idempotency-Key"]
_KEY = TypeAdapter(Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]*$")])
_PARAMETER = header_parameter(
    "Idempotency-Key",
    "Makes a repeated request safe, for 24 hours",
    **_KEY.json_schema(),
    examples=["c1e8b5f0-order-17"],
)


def _description(_method: str, status: str) -> Description:
    replayed = {status: {"headers": {"Idempotent-Replayed": header("Sent with a repeated answer", example="true")}}}
    refusals = errors(InvalidInput, IdempotencyKeyReused, IdempotencyKeyInUse)
    return {"parameters": [_PARAMETER], "responses": {**replayed, **refusals}}


@documented(_description)
async def _idempotency_key(request: Request, response: Response) -> Once | None:
    given = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidInput(errors=[{"loc": _IN_HEADER, "msg": "Must be sent once", "type": "duplicate"}])
    try:
        key = _KEY.validate_python(given[0])
    except ValidationError as error:
        problems = [{"loc": _IN_HEADER, "msg": problem["msg"], "type": problem["type"]} for problem in error.errors()]
        raise InvalidInput(errors=problems) from None

    def on_replay() -> None:
        response.headers["Idempotent-Replayed"] = "true"
        IDEMPOTENT_REPLAYS.inc()

    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))  # which a proxy may have left out
    operation = f"{request.method} {path}"
    return Once(caller_of(request) or "", key, operation, on_replay)


IdempotencyKey = Annotated[Once | None, Depends(_idempotency_key)]
"""The key of a request, if it has one: `await orders.insert(db.once(key), order)`."""
