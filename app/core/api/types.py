"""Types for the bodies and queries of every feature, as strict as the database."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from app.core.api.input.json_body import JSONNumber

MAX_ID = 2**63 - 1
"""The largest of PostgreSQL's `bigint`."""
MAX_MONEY = Decimal("9999999999.99")
"""The largest of `NUMERIC(12,2)`."""
NO_NUL = r"^[^\x00]*$"
"""A pattern for text of any kind: PostgreSQL's has no NUL."""


def _alphanumeric(value: str) -> str:
    if not value.isalnum():
        raise ValueError("must be alphanumeric")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_NUL)]
"""Text of at most 255 characters."""
AlphanumericName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255),
    AfterValidator(_alphanumeric),
    # `str.isalnum` as a pattern: the two agree on every character of a Unicode version. It is ECMA-262's, as JSON
    # Schema says (6.3.3). Python's `re`, and so openapi-spec-validator, cannot read it; none means the same in both.
    Field(description="Letters and digits of any script", json_schema_extra={"pattern": r"^[\p{L}\p{N}]+$"}),
]
"""At most 255 letters and digits."""


def _matching(pattern: str, message: str) -> BeforeValidator:
    """Reject text that does not match, although the type would accept it."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def check(value: object) -> object:
        if isinstance(value, str) and not matches(value):
            raise ValueError(message)
        return value

    return BeforeValidator(check)


CANONICAL_INTEGER = _matching(r"-?(0|[1-9][0-9]{0,40})", "must be a whole number in decimal digits")
"""For an `int` in a path or a query: rejects `+1`, `1_0`, ` 1`, `01`, and digits of other scripts."""


def _exact(value: object) -> object:
    """Take a number of a JSON body as it was sent."""
    if not isinstance(value, JSONNumber):
        return value
    try:
        return Decimal(value.text)
    except InvalidOperation:  # its exponent has more digits than `Decimal` can hold
        raise ValueError("must be a number") from None


def _json_number(value: object) -> object:
    value = _exact(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a JSON number")  # noqa: TRY004 - pydantic turns a ValueError into a 422
    return value


def _json_integer(value: object) -> object:
    """Take a whole JSON number, also `2.0` (JSON Schema, 6.1.1), but check the size of `1e999999` first."""
    value = _exact(value)
    if isinstance(value, Decimal) and value.adjusted() < 20 and value == value.to_integral_value():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole JSON number")  # noqa: TRY004 - pydantic turns a ValueError into a 422
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value if value.tzinfo is UTC else value.astimezone(UTC)
    except OverflowError:  # the first or the last day of Python's calendar
        raise ValueError("must be a moment of the years 1 to 9999 in UTC") from None


# Not `le=MAX_ID`: FastAPI makes a double of it, and only a power of two stays what it is.
Id = Annotated[int, Field(ge=1, lt=MAX_ID + 1, examples=[7])]
"""An id in a response."""
# The limits come before the validator: after it, the schema would call them `ge` and `le`.
IdText = Annotated[Id, CANONICAL_INTEGER]
"""An id in a path or a query."""
WholeNumber = BeforeValidator(_json_integer)
"""For an `int` in a body: pydantic's own would take strings and booleans as well."""
IdNumber = Annotated[Id, WholeNumber]
"""An id in a body that a client sends."""
# At most 12 digits: a double carries 15, so the shortest decimal text of the float is the price itself.
_NUMBER = PlainSerializer(float, return_type=float)
# Without `multipleOf`: 0.01 is not a double, so JavaScript's validators reject 19.99.
_PRICE = WithJsonSchema(
    {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": float(MAX_MONEY),
        "description": "Exact money: at most two decimals",
        "examples": [19.99],
    }
)
Money = Annotated[
    Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=2, allow_inf_nan=False)],
    BeforeValidator(_json_number),
    _NUMBER,
    _PRICE,
]
"""A price in a body that a client sends: a JSON number, exact."""
MoneyValue = Annotated[Decimal, _NUMBER, _PRICE]
"""A price in a response; the database has checked it."""
MoneyBound = Annotated[
    Decimal,
    _matching(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", "must be a number in decimal digits"),
    Field(ge=0, le=MAX_MONEY, decimal_places=2, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": float(MAX_MONEY)}),
]
"""A minimum or maximum price in a query."""
Timestamp = Annotated[datetime, AfterValidator(_in_utc)]
"""A moment in a response: RFC 3339, UTC; a session of PostgreSQL may have another time zone."""
_DAY = r"\d{4}-\d\d-\d\d"
Moment = Annotated[
    AwareDatetime,
    _matching(
        _DAY + r"[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)",
        "must be a date and time with an offset, as in RFC 3339",
    ),
    AfterValidator(_in_utc),
]
"""A moment in a query or a body: RFC 3339 with any offset. It is sent to the database in UTC."""
Day = Annotated[date, _matching(_DAY, "must be a date as in RFC 3339, for example 2026-11-26")]
"""A date in a query or a body: `2026-11-26`."""
