"""A unit of work that ends its transaction itself is refused, and leaves nothing; savepoints are its own."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.core.database import Database, transaction
from app.core.database.restrictions import TransactionEnded, TransactionFailed
from app.core.errors import InternalError
from tests.conftest import SQL
from tests.sample.things import ThingRow

INSERT = text("INSERT INTO things (name, price) VALUES (:name, 1)")


def begin_again(handle: Connection | Session) -> None:
    """End the transaction where it is allowed, and begin one that would be committed."""
    with contextlib.suppress(TransactionEnded):
        handle.rollback()
    with handle.begin():
        handle.execute(INSERT, {"name": "second"})


ENDS: dict[str, Callable[[Connection | Session], object]] = {
    "commit": lambda handle: handle.commit(),
    "rollback": lambda handle: handle.rollback(),
    "begin": begin_again,
}


@transaction
def ends_connection(connection: Connection, how: str) -> None:
    """Insert, end the transaction, and fail."""
    connection.execute(INSERT, {"name": "first"})
    ENDS[how](connection)
    raise ValueError(how)


@transaction
def ends_session(session: Session, how: str) -> None:
    """Do the same as `ends_connection`."""
    session.execute(INSERT, {"name": "first"})
    ENDS[how](session)
    raise ValueError(how)


@transaction
def ends_outer(session: Session) -> None:
    """Roll back what the session takes for its own, and go on."""
    with contextlib.suppress(ValueError), session.begin():
        session.execute(INSERT, {"name": "first"})
        raise ValueError
    session.execute(INSERT, {"name": "second"})


@transaction
def savepoints(session: Session) -> str:
    """Lose one of two parts."""
    for name, price in (("kept", 1), ("lost", -1)):
        try:
            with session.begin_nested():
                session.execute(
                    text("INSERT INTO things (name, price) VALUES (:name, :price)").params(name=name, price=price)
                )
        except IntegrityError:
            return name
    return ""


@transaction
def catches_statement(connection: Connection) -> None:
    """Insert, and catch the error of another statement."""
    connection.execute(INSERT, {"name": "first"})
    with contextlib.suppress(IntegrityError):
        connection.execute(text("INSERT INTO things (name, price) VALUES ('second', -1)"))


@transaction
def catches_flush(session: Session) -> None:
    """Do the same by the ORM."""
    session.add(ThingRow(name="first", price=1))
    session.flush()
    session.add(ThingRow(name="second", price=-1))
    with contextlib.suppress(IntegrityError):
        session.flush()


def database(client: TestClient) -> Database:
    """Return the database of a client's app."""
    found: Database = client.app.state.database  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("unit", [ends_connection, ends_session])
def test_no_unit_ends_its_transaction(client: TestClient, sql: SQL, unit: Callable[..., object], how: str) -> None:
    assert client.portal

    with pytest.raises((TransactionEnded, InternalError)):
        client.portal.call(unit, database(client), how)

    assert sql("SELECT name FROM things") == []


def test_a_rolled_back_transaction_is_not_followed_by_another(client: TestClient, sql: SQL) -> None:
    assert client.portal

    with pytest.raises(TransactionEnded):
        client.portal.call(ends_outer, database(client))

    assert sql("SELECT name FROM things") == []


@pytest.mark.parametrize("unit", [catches_statement, catches_flush])
def test_no_unit_returns_what_was_not_committed(client: TestClient, sql: SQL, unit: Callable[..., object]) -> None:
    assert client.portal

    with pytest.raises(TransactionFailed):
        client.portal.call(unit, database(client))

    assert sql("SELECT name FROM things") == []


def test_savepoints_work(client: TestClient, sql: SQL) -> None:
    assert client.portal

    assert client.portal.call(savepoints, database(client)) == "lost"

    assert sql("SELECT name FROM things") == [("kept",)]


def test_another_event_loop_is_refused_at_once(client: TestClient) -> None:
    with pytest.raises(RuntimeError, match="`async def`"):
        asyncio.run(savepoints(database(client)))
