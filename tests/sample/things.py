"""A resource that uses all of the kit: its table, its bodies, its error and its statements."""

from decimal import Decimal
from typing import Annotated, Literal

import psycopg2
from pydantic import StringConstraints
from sqlalchemy import CheckConstraint, Index, MetaData, Numeric, Text, create_engine, text
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import NullPool

from app.core.api import MergePatch, PageQuery, RequestBody, ResourceBody
from app.core.api.types import NO_NUL, Money, MoneyBound, MoneyValue, Name
from app.core.database import Base, Versioned
from app.core.database.base import VERSION_TRIGGER
from app.core.errors import ResourceNotFound
from app.core.resources import Resource, begins_with


class SampleBase(Base):
    """Keeps the table apart from those that Alembic compares with the migrations."""

    __abstract__ = True
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)


class ThingRow(Versioned, SampleBase):
    """The table."""

    __tablename__ = "things"
    __table_args__ = (
        CheckConstraint("char_length(name) BETWEEN 1 AND 255", name="name_length"),
        CheckConstraint("price > 0 AND price <> 'NaN'", name="price_positive"),
        CheckConstraint("char_length(description) <= 10000", name="description_length"),
        Index(None, "name", "id"),
        Index(None, "price", "id"),
        Index(None, "created_at", "id"),
    )

    name: Mapped[str] = mapped_column(Text(collation="C"))
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    description: Mapped[str | None] = mapped_column(Text)


class ThingNotFound(ResourceNotFound):
    """There is no such thing."""


Description = Annotated[str, StringConstraints(max_length=10_000, pattern=NO_NUL)]


class ThingCreate(RequestBody):
    """What a client sends to make a thing."""

    name: Name
    price: Money
    description: Description | None = None


class ThingPatch(MergePatch, total=False):
    """A JSON merge patch (RFC 7396)."""

    name: Name
    price: Money
    description: Description | None


class Thing(ResourceBody):
    """A thing as clients see it."""

    name: str
    price: MoneyValue
    description: str | None


class ThingQuery(PageQuery):
    """The query of `GET /things`."""

    sort: Literal["id", "-id", "name", "-name", "price", "-price", "created_at", "-created_at"] = "id"
    name: Name | None = None
    min_price: MoneyBound | None = None
    max_price: MoneyBound | None = None


things = Resource(
    ThingRow,
    create=ThingCreate,
    patch=ThingPatch,
    query=ThingQuery,
    filters={
        "name": begins_with(ThingRow.name),
        "min_price": lambda price: ThingRow.price >= price,
        "max_price": lambda price: ThingRow.price <= price,
    },
    not_found=ThingNotFound,
)


def create_table(url: str) -> None:
    """Create the sample's table in a database that is migrated."""
    engine = create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(url), poolclass=NullPool)
    SampleBase.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text(VERSION_TRIGGER.format(table="things")))
