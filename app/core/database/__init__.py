"""PostgreSQL through pooled SQLAlchemy: engine, units of work, "is it there?", driver errors to typed errors."""

from app.core.database.dependencies import (
    CoalescedRead,
    CoalescedWrite,
    Read,
    RepeatableWrite,
    Transaction,
    Write,
)
from app.core.database.probe import Probe
from app.core.database.sessions import Database, ReadConnection, WriteConnection

__all__ = [
    "CoalescedRead",
    "CoalescedWrite",
    "Database",
    "Probe",
    "Read",
    "ReadConnection",
    "RepeatableWrite",
    "Transaction",
    "Write",
    "WriteConnection",
]
