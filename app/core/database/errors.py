"""Driver errors to typed errors, by SQLSTATE (PostgreSQL manual, appendix A)."""

import logging
from collections.abc import Mapping
from traceback import format_tb

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.errors import APIError, Conflict, DatabaseError, InternalError, InvalidInput
from app.core.observability.instruments import DB_ERRORS

_log = logging.getLogger(__name__)

READ_ONLY = "25006"
"""A write came to a server that has become a standby: the pool's connections lead to the old primary."""

CANCELLED = "57014"
"""A statement took longer than its timeout."""

LOCK_TIMEOUT = "55P03"
"""Another transaction held a lock for longer than the lock timeout."""

REPEATABLE = frozenset({"40001", "40P01"})
"""Serialisation failure and deadlock: the whole unit of work may be run again."""

_FOREIGN_KEY = frozenset({"23001", "23503"})
# Beside foreign keys a unique one, and an exclusion.
_CONFLICT = _FOREIGN_KEY | {"23505", "23P01"}
_INVALID = frozenset({"22001", "22003", "22021", "22P05", "23502", "23514"})
# NOT NULL and CHECK: a schema that accepts what the table does not says less to the client than it could.
_BEHIND_THE_SCHEMA = frozenset({"23502", "23514"})
_DATA_EXCEPTION = "22"
_constraint_errors: dict[str, type[APIError]] = {}
# Also a database or a table that is not there (yet): the migration has not run.
_UNDEFINED_TABLE = "42P01"
_UNAVAILABLE = frozenset({CANCELLED, LOCK_TIMEOUT, READ_ONLY, "3D000", _UNDEFINED_TABLE}) | REPEATABLE
# Connection exception, insufficient resources, operator intervention; system error: Citus lost a node in COPY.
_UNAVAILABLE_CLASSES = frozenset({"08", "53", "57", "58"})

_INTERNAL = "XX000"
# A coordinator (Citus 13.2) reports these as internal errors, for it has lost the node's connection, or the SQLSTATE
# that the node sent. Texts of libpq itself need no entry: SQLAlchemy takes the connection for lost.
_BY_MESSAGE = {
    "failure on connection marked as essential": "08006",
    "duplicate key value violates unique constraint": "23505",
}


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE (five characters), or an empty string where the server sent none."""
    state = getattr(getattr(error, "orig", None), "pgcode", None) or ""
    if state != _INTERNAL:
        return state
    message = str(getattr(error, "orig", ""))
    return next((known for text, known in _BY_MESSAGE.items() if message.startswith(text)), state)


def typed_error(error: SQLAlchemyError) -> APIError:
    """Choose what the client is told; what the server said goes to the log, without values."""
    state = sqlstate_of(error)
    DB_ERRORS.labels(state[:2] or "none").inc()
    if isinstance(error, DBAPIError) and (mapped := _mapped_error(error, state)):
        return mapped()
    if state in _CONFLICT:
        return Conflict()
    if state in _INVALID or _is_of_input(error, state):
        if state in _BEHIND_THE_SCHEMA:
            _log.warning("constraint violated", extra={"sqlstate": state, "error": _primary_message(error)})
        return InvalidInput()
    if _is_unavailable(error, state):
        hint = ": is the schema migrated? scripts/migrate up" if state == _UNDEFINED_TABLE else ""
        _log.warning("database error", extra={"sqlstate": state, "error": _primary_message(error) + hint})
        return DatabaseError()
    _log.error(
        "database defect",
        # Where, and not `exc_info`: the driver's text quotes the statement with its values.
        extra={"sqlstate": state, "error": _primary_message(error), "stack": "".join(format_tb(error.__traceback__))},
    )
    return InternalError()


def map_constraints(errors: Mapping[str, type[APIError]]) -> None:
    """Choose the errors of constraints, by their names; by default they are `Conflict` or `InvalidInput`."""
    _constraint_errors.update(errors)


def _mapped_error(error: DBAPIError, state: str) -> type[APIError] | None:
    """Return the error of the violated constraint, if it has one of its own.

    A DELETE violates a foreign key of another table's rows, whose own error is about something that does not exist.
    """
    deletes = (error.statement or "").lstrip()[:6].upper() == "DELETE"
    return None if deletes and state in _FOREIGN_KEY else _constraint_errors.get(constraint_of(error) or "")


def constraint_of(error: DBAPIError) -> str | None:
    """Return the name of the constraint that was violated."""
    name: str | None = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    return name


def _is_of_input(error: SQLAlchemyError, state: str) -> bool:
    """Return whether it is a data exception of a statement with parameters: without any, it is a defect of ours."""
    return state.startswith(_DATA_EXCEPTION) and bool(getattr(error, "params", None))


def _is_unavailable(error: SQLAlchemyError, state: str) -> bool:
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    # Without a SQLSTATE the connection failed, or broke.
    broken = error.connection_invalidated or (not state and isinstance(error, OperationalError | InterfaceError))
    return broken or state in _UNAVAILABLE or state[:2] in _UNAVAILABLE_CLASSES


def _primary_message(error: SQLAlchemyError) -> str:
    """Keep the first line: DETAIL and CONTEXT quote values."""
    original = getattr(error, "orig", None) or error
    return str(original).partition("\n")[0]
