"""psycopg2 on the event loop, under SQLAlchemy's own bridge from `async` to plain code.

psycopg2 calls back wherever it would wait for the server ("Support for coroutine libraries" in its manual). Inside of
`greenlet_spawn`, on which SQLAlchemy's asyncio extension is built, that wait becomes an `await`: other requests run
meanwhile, in the same thread. Elsewhere, in a thread that connects or in a script, it is an ordinary wait. With a
thread for each connection, a read cost a quarter more CPU time: the interpreter's lock moves between cores with each
statement (docs/performance.md).
"""

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, TimestampFromPy, register_adapter, set_wait_callback
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from sqlalchemy import URL, Connection, Pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util.concurrency import await_, in_greenlet

DRIVER = "postgresql+psycopg2_on_loop"

Address = tuple[str, int]
"""Host, as the URL has it, and port."""

StatementObserver = Callable[[Any, str, float, Exception | None], None]
"""Takes the cursor, the statement (with placeholders, never with values), the seconds it took, and its error."""

rewrite_statement: ContextVar[Callable[[str], str] | None] = ContextVar("rewrite_statement", default=None)
"""Takes each statement of a unit of work, and returns what is sent instead."""

_EVENTS = {POLL_READ: selectors.EVENT_READ, POLL_WRITE: selectors.EVENT_WRITE}
_connecting = threading.local()


class LoopPool(AsyncAdaptedQueuePool):
    """A pool whose locks yield to the event loop, and that keeps nothing once it is disposed of.

    SQLAlchemy's would keep open what comes back after that, until the garbage collector finds the pool.
    """

    __module__ = AsyncAdaptedQueuePool.__module__  # which names the logger: its lines are SQLAlchemy's
    _is_disposed = False

    def dispose(self) -> None:
        """Close the idle connections, and from now on those that come back."""
        self._is_disposed = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._is_disposed:
            record.close()
        else:
            super()._do_return_conn(record)


class LoopDialect(PGDialect_psycopg2):
    """SQLAlchemy's dialect for psycopg2, which may be called from the event loop."""

    is_async = True
    supports_statement_cache = True
    observers: Sequence[StatementObserver] = ()
    """Called for every statement. Engine events would cost more: with one listener, SQLAlchemy checks for every kind of
    event, at nine places of each statement (docs/performance.md)."""

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:  # noqa: ARG003 - as SQLAlchemy declares it
        """Choose the pool whose locks yield to the event loop."""
        return LoopPool

    def initialize(self, connection: Connection) -> None:
        """Run SQLAlchemy's own queries on the first connection, without observing them."""
        observers, self.observers = self.observers, ()
        try:
            super().initialize(connection)  # type: ignore[no-untyped-call]
        finally:
            self.observers = observers

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:  # noqa: ANN401
        """Execute a statement with one set of parameters, or an INSERT with as many rows as fit."""
        if context is not None and context.execute_style is ExecuteStyle.INSERTMANYVALUES:
            _count(statement, -(-len(context.compiled_parameters) // self.insertmanyvalues_page_size))
        self._observed(cursor.execute, cursor, statement, parameters)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:  # noqa: ANN401, ARG002
        """Execute a statement without parameters."""
        self._observed(cursor.execute, cursor, statement)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:  # noqa: ANN401
        """Execute a statement with many sets of parameters, which psycopg2 sends one by one."""
        _count(statement, len(parameters))
        self._observed(super().do_executemany, cursor, statement, parameters, context, cursor_first=True)

    def _observed(self, execute: Callable[..., Any], cursor: Any, *arguments: Any, cursor_first: bool = False) -> None:  # noqa: ANN401
        error: Exception | None = None
        sent = arguments
        if (rewrite := rewrite_statement.get()) is not None:
            sent = (rewrite(arguments[0]), *arguments[1:])
        began = time.perf_counter()
        try:
            execute(*((cursor, *sent) if cursor_first else sent))
        except Exception as raised:
            error = _as_driver_error(raised)
            if error is raised:
                raise
            raise error from raised
        finally:
            seconds = time.perf_counter() - began
            for observe in self.observers:
                observe(cursor, arguments[0], seconds, error)


def _count(statement: str, number: int) -> None:
    """Tell a unit of work, before the first one is sent, that so many statements are."""
    rewrite = rewrite_statement.get()
    if rewrite is not None:
        for _ in range(number - 1):
            rewrite(statement)


def _as_driver_error(error: Exception) -> Exception:
    is_of_text = isinstance(error, UnicodeError) or (isinstance(error, ValueError) and "NUL" in str(error))
    return UnsendableValue("a text has a NUL, or is not Unicode") if is_of_text else error


class UnsendableValue(psycopg2.DataError):
    """A value that is not sent, although psycopg2 has no error for it; the SQLSTATE is that of a data exception."""

    pgcode = "22000"


def _moment_in_utc(moment: datetime) -> Any:  # noqa: ANN401 - psycopg2's adapter
    """Send a moment in UTC: with its offset, the server may store one of a year that Python cannot read again."""
    try:
        return TimestampFromPy(moment if moment.tzinfo is None else moment.astimezone(UTC))
    except OverflowError as error:
        raise UnsendableValue("a moment is not of the years 1 to 9999 in UTC") from error


register_adapter(datetime, _moment_in_utc)


class ConnectTimeout(psycopg2.OperationalError):
    """The host at `address` did not answer in time."""

    def __init__(self, address: Address) -> None:
        super().__init__(f"no answer in time from {address[0]}, port {address[1]}")
        self.address = address


def connect(arguments: dict[str, Any]) -> PsycopgConnection:
    """Open a connection, in a thread, since libpq resolves names without yielding.

    Parameters
    ----------
    arguments
        Those of `psycopg2.connect`. `connect_timeout` is for each host, and kept here: libpq ignores it if the caller
        waits (PostgreSQL manual, 34.1.1, `PQconnectPoll`).

    Raises
    ------
    psycopg2.OperationalError
        No server accepted the connection; `ConnectTimeout` if one did not answer.
    """
    _connecting.seconds, _connecting.address = arguments["connect_timeout"], None
    try:
        connection: PsycopgConnection = psycopg2.connect(**{**arguments, "connect_timeout": None})
    finally:
        _connecting.seconds = None
    return connection


def address_of(connection: PsycopgConnection) -> Address:
    """Return the address of a connection; while it is being opened, that of the host being tried."""
    return connection.info.host, connection.info.port


def _wait(connection: PsycopgConnection) -> None:
    """Wait until the server has answered; psycopg2 calls this."""
    on_loop = in_greenlet()
    while (state := connection.poll()) != POLL_OK:
        if on_loop:
            await_(_ready(connection, state))
        else:
            _wait_in_thread(connection, state)


class _Readiness:
    """Waits until connections are ready, with one selector for all of them, which the event loop watches.

    Registering each wait with the event loop costs more (docs/performance.md).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._selector = selectors.DefaultSelector()
        # In a context of its own, not in that of the request that came first.
        Context().run(loop.add_reader, self._selector.fileno(), self._wake)

    async def of(self, connection: PsycopgConnection, state: int) -> None:
        """Wait until a connection is ready for what psycopg2 wants to do."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        descriptor = connection.fileno()
        self._selector.register(descriptor, _EVENTS[state], future)
        try:
            await future
        finally:
            self._selector.unregister(descriptor)

    def _wake(self) -> None:
        for key, _ in self._selector.select(0):
            if not key.data.done():
                key.data.set_result(None)


_readiness: WeakKeyDictionary[asyncio.AbstractEventLoop, _Readiness] = WeakKeyDictionary()


async def _ready(connection: PsycopgConnection, state: int) -> None:
    loop = asyncio.get_running_loop()
    readiness = _readiness.get(loop)
    if readiness is None:
        readiness = _readiness[loop] = _Readiness(loop)
    await readiness.of(connection, state)


def _wait_in_thread(connection: PsycopgConnection, state: int) -> None:
    seconds = getattr(_connecting, "seconds", None)
    if seconds is not None:
        address = address_of(connection)
        if address != _connecting.address:  # libpq has gone on to the next host
            _connecting.address, _connecting.until = address, time.monotonic() + seconds
        seconds = max(0.0, _connecting.until - time.monotonic())
    # Unlike others it needs no file descriptor, of which there may be none left.
    with selectors.PollSelector() as selector:
        selector.register(connection, _EVENTS[state])
        if not selector.select(seconds):
            raise ConnectTimeout(address)


def wait_on_loop() -> None:
    """Make psycopg2 wait by `_wait` in this process, in which it then supports neither COPY nor large objects."""
    set_wait_callback(_wait)


registry.register(DRIVER.replace("+", "."), __name__, LoopDialect.__name__)
