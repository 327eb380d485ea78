"""How a connection is made, and the pool that keeps it."""

import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.config import Settings
from app.core.database.engine.dialect import DRIVER, LoopDialect, StatementObserver, wait_on_loop
from app.core.database.engine.slow_query_log import SlowQueryLog

# Seconds, of which each of several hosts has its share.
_CONNECT_TIMEOUT = 3
# Only Linux distinguishes the end of a stream from other input.
_INPUT_OR_END: int = select.POLLIN | getattr(select, "POLLRDHUP", 0)


def connect_arguments(settings: Settings, database_url: SecretStr | None = None) -> dict[str, Any]:
    """Build libpq's parameters (PostgreSQL manual, 34.1.2); those of the URL take precedence.

    `database_url` is by default that of the settings.

    A peer that vanished is noticed by keepalives after 5 + 3 x 5 s while we wait for an answer, and by
    `tcp_user_timeout` (milliseconds) after 10 s while we send.
    """
    url = (database_url or settings.database_url).get_secret_value()
    given = parse_dsn(url)
    defaults: dict[str, Any] = {
        "application_name": settings.service_name,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    if settings.db_statement_timeout > 0:
        # With 0 no `options` are sent, which PgBouncer rejects.
        milliseconds = round(settings.db_statement_timeout * 1000)
        # Less than the statement timeout, so that the error names the lock.
        ours = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds // 2}"
        given["options"] = f"{given.get('options', '')} {ours}".strip()
    chosen: dict[str, Any] = {k: v for k, v in given.items() if k in defaults or k == "options"}
    # libpq waits forever without one.
    chosen["connect_timeout"] = int(given.get("connect_timeout", 0)) or _CONNECT_TIMEOUT
    return {"dsn": url, **defaults, **chosen}


def connect(settings: Settings) -> PsycopgConnection:
    """Open one connection, for a script."""
    connection: PsycopgConnection = psycopg2.connect(**connect_arguments(settings))
    return connection


def create_pooled_engine(
    settings: Settings, creator: Callable[[], PsycopgConnection], observers: Sequence[StatementObserver] = ()
) -> Engine:
    """Create the engine, to be used in `greenlet_spawn`, after the fork; `creator` makes its connections.

    Its connections are in AUTOCOMMIT, where a single statement needs no BEGIN and no COMMIT (psycopg2 would send
    both), and stay there between uses: switching was a third of the CPU time of a read. For a
    transaction use `execution_options(isolation_level="READ COMMITTED")`.
    """
    wait_on_loop()
    engine = create_engine(
        f"{DRIVER}://",
        creator=creator,
        pool_size=settings.db_pool_size,
        max_overflow=0,
        pool_timeout=settings.db_pool_timeout,
        pool_recycle=settings.db_pool_recycle,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_use_lifo=True,  # connections that are not needed stay idle, and are recycled
        use_native_hstore=False,  # saves one round trip a connection
        hide_parameters=True,  # no values in messages or logs
    )
    event.listen(engine, "checkout", _refuse_dead)
    dialect = engine.dialect
    assert isinstance(dialect, LoopDialect)  # noqa: S101 - `DRIVER` names it
    dialect.observers = list(observers)
    if settings.db_slow_statement:
        dialect.observers.append(SlowQueryLog(settings.db_slow_statement))
    return engine


def check_out(engine: Engine) -> Connection:
    """Take a connection from the pool, or raise `sqlalchemy.exc.TimeoutError`."""
    try:
        return engine.connect()
    except InvalidRequestError as error:  # raised by the pool after several dead connections in a row
        raise PoolTimeoutError("the server closes each connection at once") from error


def begin_transactions(connection: Connection) -> None:
    """Leave AUTOCOMMIT until the connection goes back; psycopg2 asks the server, and SQLAlchemy wraps no such error."""
    try:
        connection.execution_options(isolation_level="READ COMMITTED")
    except psycopg2.OperationalError as error:
        connection.invalidate(error)
        connection.close()
        raise OperationalError(None, None, error, connection_invalidated=True) from error


def _refuse_dead(connection: PsycopgConnection, *_: object) -> None:
    """Have the pool replace a connection that has died."""
    if is_dead(connection):
        raise DisconnectionError("the idle connection was closed")


def is_dead(connection: PsycopgConnection) -> bool:
    """Return whether an idle connection has died, without asking the server.

    The kernel knows of an error or the end of the stream, and a server that ends a session sends a message first. A
    pre-ping would cost a round trip a unit of work.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), _INPUT_OR_END)
    events = poll.poll(0)
    return bool(events) and (events[0][1] != select.POLLIN or _has_error(connection))


def _has_error(connection: PsycopgConnection) -> bool:
    """Return whether the input is an error or an end: TLS sends tickets, PgBouncer parameters."""
    with socket.socket(fileno=os.dup(connection.fileno())) as copy:
        return copy.recv(1, socket.MSG_PEEK) in {b"", b"E"}
