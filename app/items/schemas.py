"""What goes in and out: the bodies and the query of the items routes."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from app.core.api.pagination import PageQuery
from app.core.api.types import NO_NUL, Id, Money, MoneyBound, MoneyValue, Timestamp


def _alphanumeric(value: str) -> str:
    if not value.isalnum():
        raise ValueError("must be alphanumeric")
    return value


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
Description = Annotated[str, StringConstraints(max_length=10_000, pattern=NO_NUL)]
Sort = Literal["id", "-id", "name", "-name", "price", "-price", "created_at", "-created_at"]


class ItemCreate(BaseModel):
    """What a client sends to make an item."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    price: Money
    description: Description | None = None


@with_config(ConfigDict(extra="forbid"))
class ItemPatch(TypedDict, total=False):
    """A JSON merge patch (RFC 7396): what is absent stays, null clears what may be null."""

    name: Name
    price: Money
    description: Description | None


class Item(BaseModel):
    """An item as clients see it; made of a row."""

    model_config = ConfigDict(from_attributes=True)

    id: Id
    name: Annotated[str, Field(examples=["Lamp"])]
    price: MoneyValue
    description: str | None
    created_at: Timestamp
    updated_at: Timestamp


class ItemBatchCreate(BaseModel):
    """Many items at once."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[ItemCreate], Field(min_length=1, max_length=1000)]


class ItemBatch(BaseModel):
    """The new items, in the order sent."""

    items: list[Item]


class ItemQuery(PageQuery):
    """The query of `GET /items`."""

    sort: Sort = "id"
    name: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_NUL)] | None = Field(
        None, description="Prefix of the name"
    )
    min_price: MoneyBound | None = None
    max_price: MoneyBound | None = None
