"""`python -m scripts.lib.migrate`: bring the database to the newest migration.

Exits with 0 when it is there, with 75 (`EX_TEMPFAIL`) when the database is away or busy, so that
trying again makes sense, and with 1 when a migration is wrong. It says so in one JSON line.
"""

import logging.config
import os
import sys

from alembic.config import Config
from psycopg2 import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import DBAPIError

from alembic import command
from app.core.config import load_settings
from app.core.observability.logs import log_config

# InternalError is what a standby says, which a failover has left in the primary's place (25006).
TRANSIENT = (OperationalError, InterfaceError, InternalError)

logger = logging.getLogger("scripts.migrate")


def main() -> int:
    """Migrate, and classify what went wrong."""
    logging.config.dictConfig(log_config(load_settings()))
    try:
        command.upgrade(Config("alembic.ini"), "head")
    except Exception as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, TRANSIENT):
            reason = str(cause).partition("\n")[0]
            logger.warning("the database cannot be migrated now, trying again soon: %s", reason)
            return os.EX_TEMPFAIL
        logger.critical("the migration failed", exc_info=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
