"""What goes in and out: the bodies and the query of the items routes."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    with_config,
)
from sqlalchemy import Row
from typing_extensions import TypedDict

MAX_ID = 2**63 - 1
MAX_PRICE = Decimal("9999999999.99")


def _canonical_integer(value: object) -> object:
    """Refuse what `int` would take from a path or a query: `+1`, `1_0`, ` 1`, `01`, other scripts' digits."""
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]{0,40})", value, re.ASCII):
        raise ValueError("must be a whole number in decimal digits")
    return value


def _decimal_text(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", value, re.ASCII):
        raise ValueError("must be a number in decimal digits")
    return value


def _json_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a JSON number")  # noqa: TRY004 - pydantic turns a ValueError into a 422
    return value


def _alphanumeric(value: str) -> str:
    if not value.isalnum():
        raise ValueError("must be alphanumeric")
    return value


def _rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


# The bounds stand before the validator: behind it, the schema would call them `ge` and `le`.
ItemId = Annotated[int, Field(ge=1, le=MAX_ID, examples=[7]), BeforeValidator(_canonical_integer)]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255),
    AfterValidator(_alphanumeric),
    # `str.isalnum` as a pattern: the two agree on every character of a Unicode version.
    Field(
        description="Letters and digits of any script",
        examples=["Lamp"],
        json_schema_extra={"pattern": r"^[\p{L}\p{N}]+$"},
    ),
]
_Money = Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=2, allow_inf_nan=False)]
Price = Annotated[
    _Money,
    BeforeValidator(_json_number),
    # At most 12 digits: a double carries 15, so the shortest decimal text of the float is the price itself.
    PlainSerializer(float, return_type=float),
    WithJsonSchema(
        {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": float(MAX_PRICE),
            "multipleOf": 0.01,
            "description": "Exact money: at most two decimals",
            "examples": [19.99],
        }
    ),
]
_NO_NUL = r"^[^\x00]*$"  # PostgreSQL's text has none
Description = Annotated[str, StringConstraints(max_length=10_000, pattern=_NO_NUL)]
Timestamp = Annotated[
    datetime,
    PlainSerializer(_rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
PriceBound = Annotated[
    Decimal,
    BeforeValidator(_decimal_text),
    Field(ge=0, le=MAX_PRICE, decimal_places=2, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": float(MAX_PRICE), "multipleOf": 0.01}),
]
Sort = Literal["id", "-id", "name", "-name", "price", "-price", "created_at", "-created_at"]


class ItemCreate(BaseModel):
    """What a client sends to make an item."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    price: Price
    description: Description | None = None


@with_config(ConfigDict(extra="forbid"))
class ItemPatch(TypedDict, total=False):
    """A JSON merge patch (RFC 7396): what is absent stays, null clears what may be null."""

    name: Name
    price: Price
    description: Description | None


class Item(BaseModel):
    """An item as clients see it."""

    id: Annotated[int, Field(ge=1, le=MAX_ID, examples=[7])]
    name: Annotated[str, Field(examples=["Lamp"])]
    price: Price
    description: str | None
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, row: Row[Any]) -> "Item":
        """Take a row as it is: the table's own constraints hold, no second validation."""
        return cls.model_construct(
            id=row.id,
            name=row.name,
            price=row.price,
            description=row.description,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class ItemBatchCreate(BaseModel):
    """Many items at once."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[ItemCreate], Field(min_length=1, max_length=1000)]


class ItemBatch(BaseModel):
    """The new items, in the order sent."""

    items: list[Item]


class ItemPage(BaseModel):
    """One page of the list."""

    items: list[Item]
    next_cursor: Annotated[str | None, Field(description="Opaque; null on the last page")]


class ItemQuery(BaseModel):
    """The query of `GET /items`. A misspelt name is refused: without its filter the answer would be wrong."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(_canonical_integer)] = 20
    sort: Sort = "id"
    name: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_NO_NUL)] | None = Field(
        None, description="Prefix of the name"
    )
    min_price: PriceBound | None = None
    max_price: PriceBound | None = None
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[A-Za-z0-9_-]*$")] | None = (
        Field(None, description="`next_cursor` of the page before, with the same sort and filters")
    )
