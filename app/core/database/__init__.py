"""PostgreSQL through pooled SQLAlchemy: units of work, batching, health check, driver errors to typed errors."""

from app.core.database.base import Base, Versioned
from app.core.database.database import DB, Database
from app.core.database.health_check import HealthCheck
from app.core.database.unit_of_work import batched_read, batched_write, read, transaction, write

__all__ = [
    "DB",
    "Base",
    "Database",
    "HealthCheck",
    "Versioned",
    "batched_read",
    "batched_write",
    "read",
    "transaction",
    "write",
]
