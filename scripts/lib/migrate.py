"""`python -m scripts.lib.migrate`: bring the database to the newest migration.

Exits with 0 when it is there, or when a newer release has migrated it further (after a rollback); with 75
(`EX_TEMPFAIL`) when the database is unavailable or busy, so that a retry may succeed; and with 1 when a migration is
wrong. It logs JSON lines.
"""

import logging.config
import os
import sys

from alembic.config import Config
from alembic.util import CommandError
from psycopg2 import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import DBAPIError

from alembic import command
from app.core.config import Settings, load_settings
from app.core.observability.logs import log_config

from .await_schema import known_revisions, read_revisions

# A former primary, which is a standby after a failover, answers with InternalError (25006).
TRANSIENT = (OperationalError, InterfaceError, InternalError)

logger = logging.getLogger("scripts.migrate")


def main() -> int:
    """Migrate, and return the exit code."""
    settings = load_settings()
    logging.config.dictConfig(log_config(settings))
    try:
        upgrade(settings)
    except Exception as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, TRANSIENT):
            reason = str(cause).partition("\n")[0]
            logger.warning("the database cannot be migrated now, trying again soon: %s", reason)
            return os.EX_TEMPFAIL
        logger.critical("the migration failed", exc_info=True)
        return 1
    return 0


def upgrade(settings: Settings) -> None:
    """Upgrade the schema to this release's newest revision, unless it is newer than that already."""
    try:
        command.upgrade(Config("alembic.ini"), "head")
    except CommandError:
        # Checked afterwards: a newer release may migrate between a check and the upgrade.
        found = read_revisions(settings)
        if not found or not found.isdisjoint(known_revisions()):
            raise
        logger.info("the schema is newer than this release (%s): nothing to do", ", ".join(sorted(found)))


if __name__ == "__main__":
    sys.exit(main())
