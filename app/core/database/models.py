"""The tables that every feature shares."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import DateTime

from app.core.database.base import Base


class IdempotencyKey(Base):
    """What was answered to a create that carried an `Idempotency-Key` (`app/core/api/idempotency.py`)."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    rows: Mapped[Any] = mapped_column(JSONB)
    """The inserted rows as they were when they were answered."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
