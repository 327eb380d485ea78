"""What a unit of work may not do, according to its mode: a read must not write, a write is one statement.

None of them ends its transaction: the unit of work does.
"""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from psycopg2.extensions import TRANSACTION_STATUS_INERROR
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.database.engine.dialect import rewrite_statement
from app.core.database.errors import READ_ONLY, sqlstate_of

T = TypeVar("T")


class WriteInReadUnit(RuntimeError):
    """A read unit tried to write. Nothing was changed."""


class SecondStatement(RuntimeError):
    """A write unit ran a second statement, which was not sent: the two would not be atomic."""


class TransactionEnded(RuntimeError):
    """A unit tried to end its transaction itself, or to begin another one. Nothing was committed."""


class TransactionFailed(RuntimeError):
    """A unit returned a result although PostgreSQL had given up its transaction. Nothing was committed."""


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TransactionEnded(
        "the unit of work commits when its function returns, and rolls back when it raises; "
        "a part that may fail is in begin_nested()"
    )


class UnitSession(Session):
    """A session that is part of a unit of work, which commits."""

    commit = rollback = _refuse


def read_only(work: Callable[[Connection], T], milliseconds: int) -> Callable[[Connection], T]:
    """Make the server reject writes in each statement of `work`, and cancel it after `milliseconds`, if not 0.

    The statements of one message run in one implicit transaction (PostgreSQL manual, 54.2.2.1), so this takes no
    additional round trip.
    """
    timeout = f"SET LOCAL statement_timeout = {milliseconds}; " if milliseconds else ""
    prefix = f"SET TRANSACTION READ ONLY; {timeout}"

    def unit(connection: Connection) -> T:
        rewrite_statement.set(prefix.__add__)
        try:
            return work(connection)
        except DBAPIError as error:
            if sqlstate_of(error) == READ_ONLY:
                raise WriteInReadUnit("a read unit cannot write: use @write or @transaction") from error
            raise

    return unit


def one_statement(work: Callable[[Connection], T]) -> Callable[[Connection], T]:
    """Raise for a second statement in `work`, without sending it."""

    def unit(connection: Connection) -> T:
        sent = False

        def count(statement: str) -> str:
            nonlocal sent
            if sent:
                raise SecondStatement("a write unit is one statement: use @transaction for several")
            sent = True
            return statement

        rewrite_statement.set(count)
        return work(connection)

    return unit


def one_transaction(work: Callable[[Connection], T]) -> Callable[[Connection], T]:
    """Raise where `work` ends the transaction, or begins another one after that, or where a statement failed.

    PostgreSQL answers the COMMIT of a failed transaction with a ROLLBACK, which is no error for psycopg2.
    """

    def unit(connection: Connection) -> T:
        for name in ("begin", "commit", "rollback"):
            setattr(connection, name, _refuse)  # of this checkout of the connection
        result = work(connection)
        if _has_failed(connection):
            raise TransactionFailed("a statement failed, and its error was caught: what may fail is in begin_nested()")
        return result

    return unit


def _has_failed(connection: Connection) -> bool:
    """Return whether there is nothing left to commit: a session rolls back by itself where a flush fails."""
    raw: Any = connection.connection.dbapi_connection
    return not connection.in_transaction() or raw.info.transaction_status == TRANSACTION_STATUS_INERROR
