"""PostgreSQL through pooled SQLAlchemy: units of work, batching, health check, driver errors to typed errors."""

from app.core.database.base import Base
from app.core.database.database import Database
from app.core.database.dependencies import DB
from app.core.database.health_check import HealthCheck
from app.core.database.unit_of_work import batched_read, batched_write, read, transaction, write

__all__ = [
    "DB",
    "Base",
    "Database",
    "HealthCheck",
    "batched_read",
    "batched_write",
    "read",
    "transaction",
    "write",
]
