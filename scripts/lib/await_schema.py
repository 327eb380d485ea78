"""`python -m scripts.lib.await_schema`: wait until the schema is not older than this code.

A Deployment's init container runs it while a Job migrates. Exits with 0 when the schema is ready, and with 75
(`EX_TEMPFAIL`) when it is not after `TIMEOUT` seconds. It logs JSON lines.
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

TIMEOUT = 300.0  # seconds; longer than a migration may wait for another one
INTERVAL = 1.0  # seconds between two checks

logger = logging.getLogger("scripts.await_schema")


def read_revisions(settings: Settings) -> set[str]:
    """Read the revision of the database; the set is empty before the first migration."""
    with closing(connect(settings)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT version_num FROM alembic_version")
        except UndefinedTable:
            return set()
        return {row[0] for row in cursor}


def known_revisions() -> set[str]:
    """Return all revisions that this code has a migration for."""
    return {revision.revision for revision in ScriptDirectory.from_config(Config("alembic.ini")).walk_revisions()}


def outdated_revisions() -> set[str]:
    """Return the revisions that are older than this code."""
    return known_revisions() - set(ScriptDirectory.from_config(Config("alembic.ini")).get_heads())


def is_recent(found: set[str], outdated: set[str]) -> bool:
    """Return whether the code can work with the schema.

    A revision that the code does not know is newer. Old code meets one after a rollback, or when its pod is moved
    while the next release migrates, and has to start all the same.
    """
    return bool(found) and found.isdisjoint(outdated)


def main() -> int:
    """Check once a second, and log the reason for waiting whenever it changes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings()
    logging.config.dictConfig(log_config(settings))
    outdated = outdated_revisions()
    deadline = time.monotonic() + TIMEOUT
    logged = ""
    while time.monotonic() < deadline:
        try:
            if is_recent(read_revisions(settings), outdated):
                logger.info("the schema is ready")
                return 0
            reason = "the migration"
        except psycopg2.Error as error:
            reason = f"the database: {str(error).partition(chr(10))[0]}"
        if reason != logged:
            logger.info("waiting for %s", reason)
            logged = reason
        time.sleep(INTERVAL)
    logger.error("timed out waiting for %s", logged)
    return os.EX_TEMPFAIL


if __name__ == "__main__":
    sys.exit(main())
