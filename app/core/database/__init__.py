"""PostgreSQL through pooled SQLAlchemy: engine, units of work, "is it there?", driver errors to typed errors."""

from app.core.database.probe import Probe
from app.core.database.sessions import (
    Database,
    Read,
    ReadConnection,
    RepeatableWrite,
    Transaction,
    Write,
    WriteConnection,
)

__all__ = ["Database", "Probe", "Read", "ReadConnection", "RepeatableWrite", "Transaction", "Write", "WriteConnection"]
