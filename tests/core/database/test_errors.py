"""Errors of PostgreSQL, and of a distributed engine that speaks its protocol, become the typed errors of the API."""

from collections.abc import Iterator

import psycopg2
import pytest
import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from app.core.database.errors import map_constraints, typed_error
from app.core.errors import APIError, Conflict, DatabaseError, InternalError, InvalidInput
from tests.conftest import MakeClient
from tests.support.cluster import query
from tests.support.errors import assert_error

RAISE = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{}', MESSAGE = '{}'; END $$"
LOST_NODE = "failure on connection marked as essential: worker-2:5432"


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """Connect to the server through SQLAlchemy and the driver."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(database_url), poolclass=NullPool
    )
    with engine.connect() as connection:
        yield connection


@pytest.mark.parametrize(
    ("sqlstate", "message", "expected"),
    [
        ("XX000", LOST_NODE, DatabaseError),
        ("XX000", "server closed the connection unexpectedly", DatabaseError),
        ("XX000", 'duplicate key value violates unique constraint "pk_items_102134"', Conflict),
        ("08006", "connection to the remote node postgres@worker-2:5432 failed", DatabaseError),
        ("58030", "failed to COPY to shard 102066 on worker-2:5432", DatabaseError),
        ("57P01", "terminating connection due to administrator command", DatabaseError),
        # A defect, whatever its text quotes.
        ("XX000", "cache lookup failed for type 7", InternalError),
        ("XX000", 'invalid value "failure on connection marked as essential"', InternalError),
        ("42703", "failure on connection marked as essential", InternalError),
    ],
)
def test_a_server_s_error_becomes_a_typed_error(
    connection: Connection, sqlstate: str, message: str, expected: type[APIError]
) -> None:
    with pytest.raises(DBAPIError) as raised:
        connection.execute(sqlalchemy.text(RAISE.format(sqlstate, message)))

    assert type(typed_error(raised.value)) is expected


class NoSuchParentError(APIError):
    """A row refers to nothing."""

    code, status = "NO_SUCH_PARENT", 409


def test_a_foreign_key_has_its_own_error_where_it_refers_to_nothing(connection: Connection) -> None:
    map_constraints({"fk_child_parent": NoSuchParentError})
    for statement in (
        "CREATE TEMP TABLE parent (id int PRIMARY KEY)",
        "CREATE TEMP TABLE child (parent int CONSTRAINT fk_child_parent REFERENCES parent)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (1)",
    ):
        connection.execute(sqlalchemy.text(statement))
    expected = {"INSERT INTO child VALUES (2)": NoSuchParentError, "DELETE FROM parent": Conflict}
    for statement, kind in expected.items():
        with pytest.raises(DBAPIError) as raised, connection.begin_nested():
            connection.execute(sqlalchemy.text(statement))
        assert type(typed_error(raised.value)) is kind


def test_what_only_the_table_refuses_is_logged(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    connection.execute(sqlalchemy.text("CREATE TEMP TABLE mood (name text CONSTRAINT ck_mood CHECK (name = 'good'))"))
    with pytest.raises(DBAPIError) as raised:
        connection.execute(sqlalchemy.text("INSERT INTO mood VALUES (:name)"), {"name": "a secret"})

    assert type(typed_error(raised.value)) is InvalidInput
    [record] = caplog.records
    assert (record.levelname, record.message) == ("WARNING", "constraint violated")
    assert record.__dict__["error"] == 'new row for relation "mood" violates check constraint "ck_mood"'


def test_a_node_that_is_lost_is_503(own_database_url: str, make_client: MakeClient) -> None:
    """The coordinator is there, and cannot reach the node that holds the row."""
    query(
        own_database_url,
        "CREATE FUNCTION lose_node() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = '{LOST_NODE}'; END $$",
    )
    query(own_database_url, "CREATE TRIGGER t BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION lose_node()")

    response = make_client(database_url=own_database_url).post("/things", json={"name": "a", "price": 1})

    assert_error(response, 503, "DATABASE_ERROR")
    assert "retry-after" in response.headers
    assert "worker-2" not in response.text
