"""Migrations: in step with the models, reversible, and safe to be run by anybody at any time."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import psycopg2
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.pool import NullPool

from app.core.database.base import Base
from tests.support.cluster import Cluster, connected, migrate, query
from tests.support.service import ROOT, environment, eventually

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
SCHEMA = (
    "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
    "WHERE table_schema = 'public' "
    "UNION ALL SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public' "
    "UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '' FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace "
    "ORDER BY 1, 2, 3"
)

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def empty_database_url(cluster: Cluster) -> Iterator[str]:
    """Name a database in which nothing is."""
    with cluster.database(empty=True) as url:
        yield url


@pytest.fixture
def own_database_url(cluster: Cluster) -> Iterator[str]:
    """Name a database that is migrated, and has nothing else."""
    with cluster.database(empty=True) as url:
        migrate(url)
        yield url


def start_alembic(url: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start Alembic as an operator does."""
    return start_python(url, "-m", "alembic", *arguments)


def start_python(url: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a process for a database."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(DATABASE_URL=url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_models_and_migrations_agree(own_database_url: str) -> None:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(own_database_url), poolclass=NullPool
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})

        assert compare_metadata(context, Base.metadata) == []


def test_constraints_of_models_and_migrations_agree(own_database_url: str, empty_database_url: str) -> None:
    """Alembic does not compare check constraints, identities and collations; the catalogue does."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(empty_database_url), poolclass=NullPool
    )
    Base.metadata.create_all(engine)

    migrated = [row for row in query(own_database_url, SCHEMA) if row[0] != "alembic_version"]

    assert query(empty_database_url, SCHEMA) == migrated


def test_down_to_nothing_and_up_again(own_database_url: str) -> None:
    schema = query(own_database_url, SCHEMA)

    migrate(own_database_url, "base")
    assert query(own_database_url, TABLES) == [("alembic_version",)]
    migrate(own_database_url)

    assert query(own_database_url, SCHEMA) == schema


def test_every_single_step_can_be_undone_and_repeated(empty_database_url: str) -> None:
    previous = None
    for script in [*ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions()][::-1]:
        if script.is_merge_point:  # of the template's newest and the service's own: it changes nothing
            continue
        if script.down_revision != previous:
            migrate(empty_database_url, "base")
        previous = script.revision
        migrate(empty_database_url, script.revision)
        schema = query(empty_database_url, SCHEMA)
        migrate(empty_database_url, "-1")
        assert (script.revision,) not in query(empty_database_url, "SELECT version_num FROM alembic_version")
        migrate(empty_database_url, script.revision)
        assert query(empty_database_url, SCHEMA) == schema


def test_there_is_one_line_of_revisions() -> None:
    script = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))

    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


@pytest.mark.slow
def test_any_number_of_starters_migrate_once_and_none_fails(empty_database_url: str) -> None:
    # None is to be through before the last one has begun: somebody holds the lock for which they wait, and the table
    # for which they would wait without it.
    [key] = re.findall(r"^_ADVISORY_LOCK = ([\d_]+)$", (ROOT / "alembic" / "env.py").read_text(), re.MULTILINE)
    with connected(empty_database_url) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_advisory_xact_lock(%s); CREATE TABLE alembic_version ()", [int(key)])
        processes = [start_alembic(empty_database_url, "upgrade", "head") for _ in range(8)]
        eventually(lambda: query(empty_database_url, SESSIONS) == [(9,)], 240)
        cursor.execute("ROLLBACK")
    said = [process.communicate(timeout=600)[0].decode() for process in processes]

    assert [process.returncode for process in processes] == [0] * 8, said
    revisions = len(list(ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions()))
    assert sum(text.count("Running upgrade") for text in said) == revisions
    assert ("idempotency_keys",) in query(empty_database_url, TABLES)


def test_a_migration_does_not_wait_long_for_a_lock(own_database_url: str) -> None:
    """Whoever waits for an exclusive lock makes everybody behind wait too."""
    with connected(own_database_url) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; SELECT * FROM idempotency_keys")
        process = start_alembic(own_database_url, "downgrade", "base")
        said = process.communicate(timeout=300)[0].decode()

    assert process.returncode != 0
    assert "lock timeout" in said
    assert ("idempotency_keys",) in query(own_database_url, TABLES)


def test_the_sql_for_review_sets_its_bounds_first() -> None:
    process = start_alembic("postgresql://nobody@127.0.0.1:1/nowhere", "upgrade", "head", "--sql")
    sql = process.communicate(timeout=300)[0].decode()

    assert process.returncode == 0
    assert (
        sql.index("SET lock_timeout") < sql.index("SET statement_timeout") < sql.index("CREATE TABLE idempotency_keys")
    )


def test_a_rollback_meets_a_newer_schema_and_has_nothing_to_do(own_database_url: str) -> None:
    """The former release's Job runs again after a rollback, and does not know the newest revision."""
    query(own_database_url, "UPDATE alembic_version SET version_num = '9999'")

    process = start_python(own_database_url, "-m", "scripts.lib.migrate")
    lines = [json.loads(line) for line in process.communicate(timeout=300)[0].splitlines()]

    assert process.returncode == 0, lines
    (said,) = [line for line in lines if line["logger"] == "scripts.migrate"]
    assert said["level"] == "INFO"
    assert said["message"] == "the schema is newer than this release (9999): nothing to do"
    assert query(own_database_url, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_a_history_that_cannot_be_resolved_still_fails(own_database_url: str) -> None:
    query(own_database_url, "INSERT INTO alembic_version VALUES ('9999')")

    process = start_python(own_database_url, "-m", "scripts.lib.migrate")
    said = process.communicate(timeout=300)[0].decode()

    assert process.returncode == 1, said
    assert '"CRITICAL"' in said
