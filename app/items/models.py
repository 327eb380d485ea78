"""The table."""

from decimal import Decimal

from sqlalchemy import CheckConstraint, Index, Numeric, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base, Versioned


class Item(Versioned, Base):
    """A thing with a name and a price.

    `name` sorts by code point (collation "C"), so that its order is the same on every machine and a prefix is a
    range of the index. Every sort of the list has its index, with `id` to tell equals apart.
    """

    __tablename__ = "items"
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
    description: Mapped[str | None]
