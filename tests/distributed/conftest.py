"""The tests of this folder run on a Citus cluster, that of DISTRIBUTED_DATABASE_URL.

It names a database of the coordinator in which Citus is set up and nothing else is: the tests migrate and distribute
it, write to it, and drop its tables. Without the variable they are not collected. docs/deploy.md has the commands.
"""

import os
from collections.abc import Iterator

import pytest
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.core.config import Settings
from tests.conftest import running_service
from tests.sample.app import create_app
from tests.support.cluster import connected, prepare, query
from tests.support.service import ROOT, Service

VARIABLE = "DISTRIBUTED_DATABASE_URL"
collect_ignore_glob = [] if os.environ.get(VARIABLE) else ["test_*.py"]
_DISTRIBUTE = (ROOT / "deploy/citus/distribute.sql").read_text()


# The fixtures of tests/conftest.py that are made once a session, made for the cluster.
@pytest.fixture(scope="session")
def _shared_database() -> Iterator[str]:
    url = os.environ[VARIABLE]
    _drop_everything(url)
    prepare(url)
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(_DISTRIBUTE)
        cursor.execute("SELECT create_distributed_table('things', 'id')")
    yield url
    _drop_everything(url)


def _drop_everything(url: str) -> None:
    """Empty the database, in several transactions: Citus cannot undo the migrations in one each."""
    for (table,) in query(url, "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"):
        query(url, f"DROP TABLE {table} CASCADE")
    functions = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    for (function,) in query(url, functions):
        query(url, f"DROP FUNCTION {function}")


@pytest.fixture(scope="session")
def _observer(_shared_database: str) -> Iterator[PsycopgConnection]:
    with connected(_shared_database) as connection:
        yield connection


@pytest.fixture(scope="session")
def _shared_client(_shared_database: str) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(database_url=SecretStr(_shared_database)))) as client:
        yield client


@pytest.fixture(scope="session")
def service(_shared_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service on the cluster, with two workers."""
    with running_service(tmp_path_factory.mktemp("service"), DATABASE_URL=_shared_database) as service:
        service.wait_for_workers(2)
        yield service


@pytest.fixture
def own_database_url(database_url: str) -> str:
    """Name the same database: there is one cluster."""
    return database_url
