"""One database with one data set, for all services."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2

import postgres
from lib.cluster import Cluster

ROOT = Path(__file__).resolve().parents[1]
# A vacuum or a checkpoint during some measurements would distort them; both are done between rounds.
_SETTINGS = ("autovacuum = off", "checkpoint_timeout = '1h'", "max_wal_size = '8GB'")


class Data:
    """The database.

    Attributes
    ----------
    url
        For `DATABASE_URL`.
    pid
        Of PostgreSQL's first process.
    rows
        The ids 1 to this are there.
    """

    def __init__(self, url: str, superuser_url: str, pid: int, rows: int) -> None:
        self.url, self.pid, self.rows = url, pid, rows
        self._superuser_url = superuser_url

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as a superuser, and return the rows of the last one."""
        connection = psycopg2.connect(self._superuser_url)
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def tidy(self) -> None:
        """Restore the data, and do what was deferred, so that all rounds begin equally."""
        self.run(f"DELETE FROM items WHERE id > {self.rows:d}", "TRUNCATE idempotency_keys")  # noqa: S608 - a number
        self.run("VACUUM ANALYZE items", "CHECKPOINT")

    def version(self) -> str:
        """Name PostgreSQL's version."""
        ((version,),) = self.run("SHOW server_version")
        return str(version)


@contextlib.contextmanager
def prepared(folder: Path, rows: int) -> Iterator[Data]:
    """Run a durable PostgreSQL in `folder`, with a table of `rows` rows that is kept for the next run."""
    with postgres.running(folder, durable=True) as url:
        server = Cluster(folder.resolve()).running()
        assert server is not None  # noqa: S101 - it runs as long as the block does
        data = Data(url, postgres.superuser_url(folder), server.pid, rows)
        for setting in _SETTINGS:
            data.run(f"ALTER SYSTEM SET {setting}")
        data.run("SELECT pg_reload_conf()")
        _migrate(url)
        ((found,),) = data.run(f"SELECT count(*) FROM items WHERE id <= {rows:d}")  # noqa: S608 - a number
        if found != rows:
            data.run("TRUNCATE items RESTART IDENTITY", _fill(rows))
        data.tidy()
        yield data


def _migrate(url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "scripts.lib.migrate"],
        check=True,
        cwd=ROOT,
        env={"DATABASE_URL": url, "PATH": ""},
        timeout=120,
    )


def _fill(rows: int) -> str:
    return (
        "INSERT INTO items (name, price, description)"  # noqa: S608 - a number
        " SELECT 'Item' || n, (n % 100000 + 1) / 100.0, CASE WHEN n % 2 = 0 THEN 'A thing with number ' || n END"
        f" FROM generate_series(1, {rows:d}) AS n ORDER BY n"
    )
