"""Idempotency keys where the engine is not one PostgreSQL: no row locks, and reads that do not see what was written."""

import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.conftest import MakeClient
from tests.support.cluster import connected, query
from tests.support.errors import assert_error

ROLE = "no_row_locks"
LAMP = {"name": "Lamp", "price": 19.99}
KEY = {"Idempotency-Key": "order-17"}
BODIES = {"/things": LAMP, "/things/batch": {"items": [LAMP, LAMP]}}


@pytest.fixture
def url_without_row_locks(superuser_url: str) -> Iterator[str]:
    """Connect as a role that may not lock keys.

    Citus answers `FOR UPDATE` on a distributed table with 0A000; here it is 42501, for it needs the right to UPDATE.
    """
    password = secrets.token_hex()
    with connected(superuser_url) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD %s", (password,))
        cursor.execute(f"GRANT SELECT, INSERT, DELETE ON idempotency_keys TO {ROLE}")
        cursor.execute(f"GRANT ALL ON things TO {ROLE}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}")
    parts = urlsplit(superuser_url)
    yield urlunsplit(parts._replace(netloc=f"{ROLE}:{password}@{parts.netloc.rpartition('@')[2]}"))
    query(superuser_url, f"DROP OWNED BY {ROLE}")
    query(superuser_url, f"DROP ROLE {ROLE}")


@pytest.mark.parametrize("path", BODIES)
def test_a_create_and_its_replay_lock_no_keys(url_without_row_locks: str, make_client: MakeClient, path: str) -> None:
    client = make_client(database_url=url_without_row_locks)

    first, second = (client.post(path, json=BODIES[path], headers=KEY) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 201), (first.text, second.text)
    assert second.content == first.content
    assert second.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("path", BODIES)
def test_a_key_that_is_there_and_cannot_be_read_is_503(
    own_database_url: str, make_client: MakeClient, path: str
) -> None:
    """As behind a balancer that sends the read to a standby: the key is not inserted, and then is not found."""
    query(
        own_database_url,
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    )
    query(own_database_url, "CREATE TRIGGER t BEFORE INSERT ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION skip()")

    response = make_client(database_url=own_database_url).post(path, json=BODIES[path], headers=KEY)

    assert_error(response, 503, "DATABASE_ERROR")
    assert "retry-after" in response.headers
    assert query(own_database_url, "SELECT count(*) FROM things") == [(0,)]
