"""What goes in and out: the bodies and the query of the items routes."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.core.api import MergePatch, PageQuery, RequestBody, ResourceBody
from app.core.api.types import NO_NUL, AlphanumericName, Money, MoneyBound, MoneyValue, Name

ItemName = Annotated[AlphanumericName, Field(examples=["Lamp"])]
Description = Annotated[str, StringConstraints(max_length=10_000, pattern=NO_NUL)]


class ItemCreate(RequestBody):
    """What a client sends to make an item."""

    name: ItemName
    price: Money
    description: Description | None = None


class ItemPatch(MergePatch, total=False):
    """A JSON merge patch (RFC 7396): what is absent stays, null clears what may be null."""

    name: ItemName
    price: Money
    description: Description | None


class Item(ResourceBody):
    """An item as clients see it."""

    name: Annotated[str, Field(examples=["Lamp"])]
    price: MoneyValue
    description: str | None


class ItemQuery(PageQuery):
    """The query of `GET /items`."""

    sort: Literal["id", "-id", "name", "-name", "price", "-price", "created_at", "-created_at"] = "id"
    name: Annotated[Name | None, Field(description="Prefix of the name")] = None
    min_price: MoneyBound | None = None
    max_price: MoneyBound | None = None
