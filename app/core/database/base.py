"""The declarative base of every feature's models, and the columns that every resource has."""

from datetime import datetime
from typing import Any, ClassVar, cast

from sqlalchemy import BigInteger, FetchedValue, Identity, MetaData, Table, Text, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime


class Base(DeclarativeBase):
    """Names every constraint and index by one rule, so that a migration can name what it changes.

    `Mapped[int]` is a bigint, `Mapped[str]` text, `Mapped[datetime]` has a time zone.
    A class with `__mapper_args__` of its own repeats `eager_defaults` there.
    """

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        str: Text,
        datetime: DateTime(timezone=True),
    }
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # What the server sets is read by the same statement, so that an object can be returned after its session's end.
    __mapper_args__: Any = {"eager_defaults": True}  # noqa: RUF012 - as SQLAlchemy declares it


class Versioned:
    """The columns that `Resource` needs.

    `version` and `updated_at` change with the row, whatever changes it: a trigger does it, `VERSION_TRIGGER`.
    """

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=1)
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue(), sort_order=2
    )
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue(), sort_order=3)
    """Grows with every change; the entity tag is made of it."""


def table_of(model: type[Any], *needed: str) -> Table:
    """Return the table of a mapped class, which has the columns that are needed."""
    table = getattr(model, "__table__", None)
    if table is None or (missing := [name for name in needed if name not in table.c]):
        lacks = "is no mapped class" if table is None else f"has no column {', '.join(missing)}"
        raise TypeError(f"{model.__name__} {lacks}: make it a class of (Versioned, Base)")
    return cast("Table", table)


VERSION_TRIGGER = (
    "CREATE TRIGGER next_version BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION set_next_version()"
)
"""The statement that a migration runs for a table with `Versioned` columns; `scripts/migrate new` writes it."""
