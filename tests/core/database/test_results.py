"""Results of transactions that are stored with their keys, and read again."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import LargeBinary, MetaData, inspect
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base, Versioned
from app.core.database.results import Results
from tests.core.database.test_store_functions import Shelf


class Odd(Versioned, Base):
    """Has columns of many types."""

    __tablename__ = "odd"
    metadata = MetaData()

    price: Mapped[Decimal]
    ratio: Mapped[float]
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    document: Mapped[Any] = mapped_column(JSONB)
    numbers: Mapped[list[int]] = mapped_column(ARRAY(JSONB))
    uuid: Mapped[UUID]
    day: Mapped[date | None]
    lasts: Mapped[timedelta]

    @property
    def double(self) -> Decimal:
        """Twice the price."""
        return self.price * 2


def values(**others: Any) -> dict[str, Any]:
    """Have a value for each column."""
    return {
        "id": 2**63 - 1,
        "created_at": datetime(2026, 1, 1, 1, 2, 3, 456789, UTC),
        "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
        "version": 3,
        "price": Decimal("19.90"),
        "ratio": math.inf,
        "secret": b"\xff\x00",
        "document": {"a": [1, None]},
        "numbers": [1, 2],
        "uuid": UUID(int=1),
        "day": None,
        "lasts": timedelta(days=1, microseconds=5),
    } | others


def test_an_object_is_read_as_it_was_stored() -> None:
    results = Results(Odd, "f")

    again = results.from_json(results.to_json(Odd(**values())))

    assert {name: getattr(again, name) for name in values()} == values()
    assert (type(again), again.double, str(again.price)) == (Odd, Decimal("39.80"), "19.90")
    assert inspect(again).transient


def test_a_column_that_is_newer_than_the_result_is_none() -> None:
    results = Results(Odd, "f")
    stored = results.to_json(Odd(**values(day=date(2026, 1, 1))))

    assert '"day":"2026-01-01",' in stored
    assert results.from_json(stored.replace('"day":"2026-01-01",', "")).day is None


def test_a_value_that_is_not_of_its_column_is_refused() -> None:
    with pytest.raises(TypeError, match="f: what is stored of its result lacks what its type requires"):
        Results(Odd, "f").to_json(Odd(**values(uuid="none")))


def test_an_object_with_relationships_is_not_stored() -> None:
    with pytest.raises(TypeError, match="return a mapped class without relationships, a pydantic model"):
        Results(Shelf, "f")
