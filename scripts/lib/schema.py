"""Check whether the schema is current without loading Alembic, which takes a second."""

import re
from pathlib import Path

import psycopg2

CONNECT_TIMEOUT = 3  # seconds


def is_current(url: str, versions: Path) -> bool:
    """Return whether the database has the newest revision.

    False in any doubt (unavailable database, two heads, a merge): Alembic decides then.
    """
    source = "\n".join(file.read_text() for file in versions.glob("*.py"))
    revisions = set(re.findall(r"^revision\b[^=\n]*= [\"'](\w+)[\"']", source, re.MULTILINE))
    followed = set(re.findall(r"^down_revision\b[^=\n]*= [\"'](\w+)[\"']", source, re.MULTILINE))
    heads = revisions - followed
    try:
        return len(heads) == 1 and read_revisions(url) == heads
    except psycopg2.Error:
        return False


def read_revisions(url: str) -> set[str]:
    """Read the revisions of the database."""
    connection = psycopg2.connect(url, connect_timeout=CONNECT_TIMEOUT)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT version_num FROM alembic_version")
            return {row[0] for row in cursor}
    finally:
        connection.close()
