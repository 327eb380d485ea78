"""Run migrations: one at a time, and without waiting long for a lock."""

import logging.config
import time
from importlib import import_module
from pkgutil import iter_modules

from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

import app
from alembic import context
from app.core.config import load_settings
from app.core.database.base import Base
from app.core.database.engine.pool import connect
from app.core.observability.logs import log_config

# One number for this service: concurrent migrations run one after the other.
_ADVISORY_LOCK = 7_403_118_511_042_931
_MAX_WAIT = 300.0
# A statement that waits for a lock blocks all later ones.
_SETTINGS = ("SET lock_timeout = '5s'", "SET statement_timeout = '60s'")


def load_models() -> None:
    """Import every feature's models, so that the metadata is complete."""
    for feature in iter_modules(app.__path__, "app."):
        if feature.ispkg and any(m.name == "models" for m in iter_modules(import_module(feature.name).__path__)):
            import_module(f"{feature.name}.models")


def migrate_offline() -> None:
    """Print the SQL, as it is run: each migration in a transaction of its own."""
    context.configure(
        dialect_name="postgresql",
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    for setting in _SETTINGS:
        context.execute(setting)
    with context.begin_transaction():
        context.run_migrations()


def wait_for_others(connection: Connection) -> None:
    """Take the lock, or raise after `_MAX_WAIT` seconds.

    The lock belongs to the session: it outlasts the transactions, and ends with the connection. It is polled, since a
    statement that waits for it holds a snapshot, for which CREATE INDEX CONCURRENTLY in the other migration would wait.
    """
    deadline = time.monotonic() + _MAX_WAIT
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}):
        connection.rollback()
        if time.monotonic() > deadline:
            raise LockNotAvailable("another migration is still running")
        time.sleep(0.2)


def migrate(connection: Connection) -> None:
    """Run the migrations, each in its own transaction."""
    wait_for_others(connection)
    for setting in _SETTINGS:
        connection.execute(text(setting))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


load_models()
if context.is_offline_mode():
    migrate_offline()
elif (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    settings = load_settings()
    logging.config.dictConfig(log_config(settings))
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect(settings), poolclass=NullPool)
    with engine.connect() as fresh:
        migrate(fresh)
