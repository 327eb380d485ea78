"""Units of work on a real PostgreSQL that fails in each way it can."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.util.concurrency import await_
from starlette.testclient import TestClient

from app.core.database import Database
from app.core.database.database import Mode
from app.core.errors import APIError, DatabaseError
from tests.conftest import SQL, MakeClient
from tests.support.cluster import query
from tests.support.errors import assert_error
from tests.support.proxy import Proxy
from tests.support.routes import serve
from tests.support.service import eventually

Work = Callable[[Connection], Any]
MODES: dict[str, Callable[[Database], Callable[[Work], Any]]] = {
    "read": lambda db: partial(db.run, Mode.READ),
    "write": lambda db: partial(db.run, Mode.WRITE),
    "repeatable_write": lambda db: partial(db.run, Mode.WRITE, repeatable=True),
    "transaction": lambda db: partial(db.run, Mode.TRANSACTION),
}


def do(client: TestClient, how: str, work: Work) -> Any:
    """Run a unit of work of a client's app, in its event loop."""
    assert client.portal
    return client.portal.call(MODES[how](_database(client)), work)


def begin(client: TestClient, how: str, work: Work) -> "Future[Any]":
    """Start one."""
    assert client.portal
    return client.portal.start_task_soon(MODES[how](_database(client)), work)


def _database(client: TestClient) -> Database:
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    return database


def statement(sql: str) -> Work:
    """Make a unit of work of one statement."""
    return lambda connection: connection.execute(text(sql))


HOLD, WAIT = "SELECT pg_advisory_xact_lock(1)", "SELECT pg_advisory_xact_lock_shared(1)"


def waiting(sql: SQL) -> int:
    """Count the units that wait, because of `WAIT`."""
    [(number,)] = sql(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
    )
    return int(number)


@contextmanager
def locked(url: str, sql: str = "LOCK TABLE things IN ACCESS EXCLUSIVE MODE") -> Iterator[None]:
    """Hold a lock in a transaction of somebody else."""
    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute(sql)
        yield


def raised(state: str) -> str:
    """Have the server raise what cannot be provoked otherwise."""
    return f"DO $$ BEGIN RAISE EXCEPTION 'geheim' USING ERRCODE = '{state}'; END $$"


INSERT = "INSERT INTO things (id, name, price) OVERRIDING SYSTEM VALUE VALUES "


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        (INSERT + "(1, 'x', 1), (1, 'x', 1)", 409, "CONFLICT"),  # 23505
        (INSERT + "(1, NULL, 1)", 422, "INVALID_INPUT"),  # 23502
        (INSERT + "(1, 'x', -1)", 422, "INVALID_INPUT"),  # 23514
        ("INSERT INTO things (name, price) VALUES ('x', 1e10)", 422, "INVALID_INPUT"),  # 22003
        (
            "CREATE TEMP TABLE t AS SELECT 'x'::varchar(1) AS c; INSERT INTO t VALUES ('xy')",
            422,
            "INVALID_INPUT",
        ),  # 22001
        (r"SELECT convert_from('\xff', 'utf8')", 422, "INVALID_INPUT"),  # 22021
        ("SELECT convert_to('日', 'latin1')", 422, "INVALID_INPUT"),  # 22P05
        ("SELECT pg_sleep(9)", 503, "DATABASE_ERROR"),  # 57014, the statement timeout
        ("SELECT pg_terminate_backend(pg_backend_pid())", 503, "DATABASE_ERROR"),  # 57P01
        ("SELECT * FROM nowhere", 503, "DATABASE_ERROR"),  # 42P01: not migrated yet
        (
            "SET transaction_read_only = on; INSERT INTO things (name, price) VALUES ('x', 1)",
            503,
            "DATABASE_ERROR",
        ),  # 25006
        (raised("40001"), 503, "DATABASE_ERROR"),
        (raised("40P01"), 503, "DATABASE_ERROR"),
        (raised("53300"), 503, "DATABASE_ERROR"),
        (raised("53100"), 503, "DATABASE_ERROR"),
        (raised("08006"), 503, "DATABASE_ERROR"),
        (raised("57P03"), 503, "DATABASE_ERROR"),
        (raised("P0001"), 500, "INTERNAL_ERROR"),
        ("SELECT nothing", 500, "INTERNAL_ERROR"),
        ("SELECT 1/0", 500, "INTERNAL_ERROR"),
    ],
)
@pytest.mark.parametrize("how", ["write", "transaction"])
def test_each_state_of_the_server_has_its_answer(
    make_client: MakeClient, how: str, sql: str, status: int, code: str
) -> None:
    client = make_client(db_statement_timeout=0.3 if "pg_sleep" in sql else 30)

    with pytest.raises(APIError) as error:
        do(client, how, statement(sql))

    assert (error.value.status, error.value.code) == (status, code)
    # And as a client of the service sees it.
    serve(client, "/test", statement(sql))
    response = client.get("/test")
    assert_error(response, status, code)
    assert "geheim" not in response.text


def test_a_missing_table_is_logged_with_what_to_do(
    client: TestClient, logs: Callable[[], list[dict[str, Any]]]
) -> None:
    with pytest.raises(DatabaseError):
        do(client, "read", statement("SELECT * FROM nowhere"))

    line = logs()[-1]
    assert line["message"] == "database error"
    assert line["error"] == 'relation "nowhere" does not exist: is the schema migrated? scripts/migrate up'


def test_a_lock_that_is_not_to_be_had_is_503(make_client: MakeClient, database_url: str) -> None:
    client = make_client(db_statement_timeout=0.4)
    with locked(database_url):  # for as long as the block lasts: a wait without an end would be seen
        for method, path, body in (("GET", "/things/1", None), ("POST", "/things", {"name": "x", "price": 1})):
            assert_error(client.request(method, path, json=body), 503, "DATABASE_ERROR")

    eventually(lambda: client.post("/things", json={"name": "x", "price": 1}).status_code == 201)


def test_a_database_that_is_not_there_is_503_in_time(make_client: MakeClient, proxy: Proxy) -> None:
    client = make_client(database_url=proxy.url, db_pool_timeout=60)
    proxy.refuse()
    for method, path, body in (
        ("GET", "/things/1", None),
        ("GET", "/things", None),
        ("POST", "/things", {"name": "x", "price": 1}),
    ):
        started = time.monotonic()
        assert_error(client.request(method, path, json=body), 503, "DATABASE_ERROR")
        assert time.monotonic() - started < 30, "it did not wait for a connection"
    proxy.accept()

    assert client.post("/things", json={"name": "x", "price": 1}).status_code == 201


def test_nobody_notices_that_idle_connections_died(make_client: MakeClient, sql: SQL) -> None:
    client = make_client(service_name="victim", db_pool_size=4)
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.get("/things?limit=100"), range(16)))
        killed = sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'victim'")
        assert killed
        # Reads and writes alike: nothing was sent on a dead connection.
        assert client.post("/things", json={"name": "x", "price": 1}).status_code == 201
        with ThreadPoolExecutor(8) as pool:
            assert {r.status_code for r in pool.map(lambda _: client.get("/things?limit=100"), range(16))} == {200}


def cut_off(calls: list[int], times: int) -> Work:
    """Make a unit of work whose connection is lost in the middle, the first `times` times."""

    def work(connection: Connection) -> str:
        calls.append(1)
        if len(calls) <= times:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return str(connection.execute(text("SELECT 'done'")).scalar_one())

    return work


@pytest.mark.parametrize("how", ["read", "repeatable_write"])
def test_what_is_safe_to_repeat_is_repeated_once_when_the_connection_is_lost(client: TestClient, how: str) -> None:
    calls: list[int] = []
    assert do(client, how, cut_off(calls, 1)) == "done"
    assert len(calls) == 2

    calls.clear()
    with pytest.raises(DatabaseError):
        do(client, how, cut_off(calls, 9))
    assert len(calls) == 2


@pytest.mark.parametrize("how", ["write", "transaction"])
def test_a_write_is_not_repeated_when_the_connection_is_lost(client: TestClient, how: str) -> None:
    calls: list[int] = []

    with pytest.raises(DatabaseError):
        do(client, how, cut_off(calls, 1))

    assert len(calls) == 1


def test_two_transactions_that_lock_each_other_out_both_end_well(client: TestClient, sql: SQL) -> None:
    sql("INSERT INTO things (name, price) VALUES ('a', 1), ('b', 1)")
    both_hold_one = asyncio.Barrier(2)
    calls: list[int] = []

    def work(first: int, second: int) -> Work:
        def unit(connection: Connection) -> None:
            calls.append(first)
            connection.execute(text("UPDATE things SET price = price + 1 WHERE id = :id"), {"id": first})
            if calls.count(first) == 1:
                await_(both_hold_one.wait())
            connection.execute(text("UPDATE things SET price = price + 1 WHERE id = :id"), {"id": second})

        return unit

    for future in (begin(client, "transaction", work(1, 2)), begin(client, "transaction", work(2, 1))):
        future.result(60)

    assert len(calls) >= 3, calls  # one was repeated; it may have taken its row again before the other got it
    assert sql("SELECT price FROM things") == [(3,), (3,)]


def test_a_serialisation_failure_repeats_the_whole_transaction(client: TestClient, sql: SQL) -> None:
    sql("INSERT INTO things (name, price) VALUES ('a', 1)")
    calls: list[int] = []

    def work(connection: Connection) -> None:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        price = connection.execute(text("SELECT price FROM things")).scalar_one()
        calls.append(int(price))
        if len(calls) == 1:
            sql("UPDATE things SET price = 5")
        connection.execute(text("UPDATE things SET price = :price"), {"price": price + 1})

    do(client, "transaction", work)

    assert calls == [1, 5]
    assert sql("SELECT price FROM things") == [(6,)]


@pytest.mark.parametrize("how", ["read", "write", "transaction"])
def test_repetition_has_an_end(client: TestClient, how: str) -> None:
    calls: list[int] = []

    def work(connection: Connection) -> None:
        calls.append(1)
        connection.execute(text(raised("40001")))

    with pytest.raises(DatabaseError):
        do(client, how, work)

    assert len(calls) == 3


def test_waiting_for_a_connection_has_an_end(make_client: MakeClient, database_url: str, sql: SQL) -> None:
    client = make_client(db_pool_size=1, db_pool_timeout=0.2, db_statement_timeout=0)
    with locked(database_url, HOLD):
        busy = begin(client, "read", statement(WAIT))
        eventually(lambda: waiting(sql) == 1)

        started = time.monotonic()
        response = client.get("/things")

        assert_error(response, 503, response.json()["detail"]["code"])
        assert response.json()["detail"]["code"] in {"DATABASE_ERROR", "OVERLOADED"}
        assert time.monotonic() - started > 0.15
        assert not busy.done()
    busy.result(60)
    eventually(lambda: client.get("/things").status_code == 200)


def test_connections_are_at_most_as_many_as_the_pool(make_client: MakeClient, database_url: str, sql: SQL) -> None:
    client = make_client(service_name="counted", db_pool_size=3, db_pool_timeout=60, db_statement_timeout=0)
    most = 0
    with ThreadPoolExecutor(24) as pool:
        with locked(database_url, HOLD):
            work = [pool.submit(do, client, "read", statement(WAIT)) for _ in range(60)]
            eventually(lambda: waiting(sql) == 3)
        while not all(future.done() for future in work):
            [(now,)] = sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'")
            most = max(most, now)
        for future in work:
            future.result(0)

    assert most <= 4  # with the probe's


@pytest.mark.parametrize("how", ["read", "write", "transaction"])
@pytest.mark.parametrize("sql_text", ["SELECT 1", "SELECT 1/0", "SELECT pg_terminate_backend(pg_backend_pid())"])
def test_the_connection_goes_back_whatever_happens(make_client: MakeClient, how: str, sql_text: str) -> None:
    client = make_client(db_pool_size=1, db_pool_timeout=20)
    for _ in range(3):
        future = begin(client, how, statement(sql_text))
        eventually(future.done)

    primary = _database(client)._primary
    assert primary.busy == 0
    # A connection without work goes back to the pool a moment later.
    eventually(lambda: primary._engine.pool.checkedout() == 0)  # type: ignore[attr-defined]
    assert client.get("/things").status_code == 200


def test_a_transaction_is_committed_before_its_result_is_there(client: TestClient, sql: SQL) -> None:
    do(client, "transaction", statement("INSERT INTO things (name, price) VALUES ('x', 1)"))
    assert sql("SELECT name FROM things") == [("x",)]

    def fails(connection: Connection) -> None:
        connection.execute(text("INSERT INTO things (name, price) VALUES ('y', 1)"))
        raise DatabaseError

    with pytest.raises(DatabaseError):
        do(client, "transaction", fails)
    assert sql("SELECT name FROM things") == [("x",)]


def test_a_commit_that_fails_is_never_a_success(own_database_url: str, make_client: MakeClient) -> None:
    client = make_client(database_url=own_database_url)
    thing = client.post("/things", json={"name": "old", "price": 1})
    query(
        own_database_url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$geheim$$; END'",
    )
    query(
        own_database_url,
        "CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE OR DELETE ON things "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    new = {"name": "new", "price": 1}
    tagged = {"If-Match": thing.headers["etag"]}

    for response in (
        client.post("/things", json=new),
        client.post("/things", json=new, headers={"Idempotency-Key": "k"}),
        client.post("/things/batch", json={"items": [new, new]}),
        client.patch("/things/1", json=new),
        client.patch("/things/1", json=new, headers=tagged),
        client.delete("/things/1"),
        client.delete("/things/1", headers=tagged),
    ):
        assert_error(response, 500, "INTERNAL_ERROR")
        assert "geheim" not in response.text
    assert query(own_database_url, "SELECT name FROM things") == [("old",)]


def test_a_server_that_became_read_only_costs_the_pool_its_connections(
    own_database_url: str, make_client: MakeClient
) -> None:
    """After a failover the old connections lead to a standby; with the next ones libpq finds the primary."""
    client = make_client(database_url=own_database_url)
    new = {"name": "x", "price": 1}
    client.post("/things", json=new)
    _set_read_only(client)

    assert_error(client.post("/things", json=new), 503, "DATABASE_ERROR")

    assert client.post("/things", json=new).status_code == 201


def _set_read_only(client: TestClient) -> None:
    do(client, "write", statement("SET default_transaction_read_only = on"))


def test_sessions_are_named_and_bounded(make_client: MakeClient) -> None:
    client = make_client(service_name="named", db_statement_timeout=1.5)

    def work(connection: Connection) -> list[str]:
        names = ("application_name", "statement_timeout", "lock_timeout")
        return [str(connection.execute(text(f"SHOW {name}")).scalar_one()) for name in names]

    for mode, milliseconds in (("transaction", "1500ms"), ("read", "750ms")):
        name, timeout, lock = do(client, mode, work)
        assert (name, timeout) == ("named", milliseconds)
        assert 0 < int(lock.removesuffix("ms")) <= 1500
