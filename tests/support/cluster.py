"""The PostgreSQL of the tests: databases are made in it, copied, cleaned and asked."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import sqlalchemy
from alembic.config import Config
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from sqlalchemy.pool import NullPool

from alembic import command
from tests.sample.things import create_table

_TEMPLATE = "tests_template"
logging.getLogger("alembic").setLevel(logging.WARNING)  # a failing test would print each migration, twice


@contextlib.contextmanager
def connected(url: str) -> Iterator[PsycopgConnection]:
    """Hold a connection on which every statement commits, and no lock is waited for long."""
    connection = psycopg2.connect(url, connect_timeout=60, options="-c lock_timeout=60s -c statement_timeout=120s")
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def run(
    connection: PsycopgConnection, statement: LiteralString, parameters: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Run one statement, and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def query(url: str, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, and return its rows."""
    with connected(url) as connection:
        return run(connection, statement, parameters)


def migrate(url: str, revision: str = "head") -> None:
    """Run the migrations up to `revision`, or down to `base` or by `-1`, in this process."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(url), poolclass=NullPool
    )
    config = Config("alembic.ini")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if revision in {"base", "-1"} else command.upgrade)(config, revision)


def prepare(url: str) -> None:
    """Migrate, and create the sample's table."""
    migrate(url)
    create_table(url)


class Cluster:
    """A running PostgreSQL.

    Parameters
    ----------
    url
        Its URL as the service's role, which owns the databases.
    superuser_url
        Its URL as a superuser.
    """

    def __init__(self, url: str, superuser_url: str) -> None:
        self.url, self._superuser_url = url, superuser_url
        self._owner = urlsplit(url).username
        self._numbers = count(1)
        query(superuser_url, f"DROP DATABASE IF EXISTS {_TEMPLATE} WITH (FORCE)")
        query(superuser_url, f"CREATE DATABASE {_TEMPLATE} OWNER {self._owner}")
        prepare(self._url_of(_TEMPLATE))

    def _url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    def as_superuser(self, url: str) -> str:
        """Name the same database, as a superuser."""
        return urlunsplit(urlsplit(self._superuser_url)._replace(path=urlsplit(url).path))

    @contextlib.contextmanager
    def database(self, *, empty: bool = False) -> Iterator[str]:
        """Make a database, migrated unless it is to be `empty`; it goes at the end, whoever is connected."""
        name = f"test_{next(self._numbers)}"
        template = "template0" if empty else _TEMPLATE
        with connected(self._superuser_url) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {self._owner}")
        try:
            yield self._url_of(name)
        finally:
            query(self._superuser_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def clean(connection: PsycopgConnection) -> None:
    """Empty every table but Alembic's own, and start every sequence anew."""
    tables = run(
        connection,
        "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
    )
    names = ", ".join(name for (name,) in tables)
    run(connection, f"TRUNCATE {names} RESTART IDENTITY CASCADE")
