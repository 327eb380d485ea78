"""`python -m scripts.lib.await_schema`: wait until the schema is not older than this code.

A Deployment's init container runs it, while a Job migrates. Exits with 0 when the schema is there,
and with 75 (`EX_TEMPFAIL`) when it is not after `PATIENCE` seconds. It says so in JSON lines.
"""

import logging.config
import os
import signal
import sys
import time
from contextlib import closing

import psycopg2
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg2.errors import UndefinedTable

from app.core.config import Settings, load_settings
from app.core.database.engine.pool import connect
from app.core.observability.logs import log_config

PATIENCE = 300.0  # seconds; longer than a migration may wait for another one
PAUSE = 1.0  # seconds between two looks

logger = logging.getLogger("scripts.await_schema")


def read_revisions(settings: Settings) -> set[str]:
    """Ask the database what it was migrated to; nothing before the first migration."""
    with closing(connect(settings)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT version_num FROM alembic_version")
        except UndefinedTable:
            return set()
        return {row[0] for row in cursor}


def outdated() -> set[str]:
    """List the revisions that a migration of this code comes after."""
    script = ScriptDirectory.from_config(Config("alembic.ini"))
    return {revision.revision for revision in script.walk_revisions()} - set(script.get_heads())


def is_recent(found: set[str], old: set[str]) -> bool:
    """Tell whether the code can work with the schema.

    One that the code does not know is newer: after a rollback, or when an old pod is moved while the
    next release migrates, the old code has to start all the same.
    """
    return bool(found) and found.isdisjoint(old)


def main() -> int:
    """Look once a second, and say what is waited for when that changes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings()
    logging.config.dictConfig(log_config(settings))
    old = outdated()
    deadline = time.monotonic() + PATIENCE
    said = ""
    while time.monotonic() < deadline:
        try:
            if is_recent(read_revisions(settings), old):
                logger.info("the schema is there")
                return 0
            reason = "the migration"
        except psycopg2.Error as error:
            reason = f"the database: {str(error).partition(chr(10))[0]}"
        if reason != said:
            logger.info("waiting for %s", reason)
            said = reason
        time.sleep(PAUSE)
    logger.error("waited in vain for %s", said)
    return os.EX_TEMPFAIL


if __name__ == "__main__":
    sys.exit(main())
