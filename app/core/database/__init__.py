"""PostgreSQL through pooled SQLAlchemy: engine, units of work, "is it there?", driver errors to typed errors."""

from app.core.database.dependencies import (
    CoalescedRead,
    CoalescedWrite,
    Read,
    RepeatableWrite,
    Transaction,
    Write,
)
from app.core.database.health_check import HealthCheck
from app.core.database.unit_of_work import Database, ReadConnection, WriteConnection

__all__ = [
    "CoalescedRead",
    "CoalescedWrite",
    "Database",
    "HealthCheck",
    "Read",
    "ReadConnection",
    "RepeatableWrite",
    "Transaction",
    "Write",
    "WriteConnection",
]
