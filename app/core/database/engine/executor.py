"""The way to one server: its pooled connections, and the queue in front of them."""

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.util.concurrency import await_, greenlet_spawn

from app.core.config import Settings
from app.core.database.engine.connector import Connector
from app.core.database.engine.dialect import address_of
from app.core.database.engine.pool import connect_arguments, create_pooled_engine
from app.core.database.engine.watchdog import Watchdog
from app.core.database.errors import READ_ONLY, REPEATABLE, sqlstate_of, typed_error
from app.core.errors import DatabaseError
from app.core.observability.instruments import DB_POOL_WAIT, DB_POOL_WAITING

T = TypeVar("T")
Begin = Callable[[], AbstractContextManager[Connection]]

_TRIES = 3
# Seconds for which a unit may hold a connection: those that the server allows a statement, and a margin.
_MARGIN = 2.0
_WITHOUT_STATEMENT_TIMEOUT = 30.0


class Executor:
    """Runs units of work on one server. Make it after the fork, in the event loop.

    Parameters
    ----------
    settings
        Those of the service.
    url
        The server, or several as libpq has it.
    report
        Called in the event loop whenever a connection is taken or given back.

    Attributes
    ----------
    alone, transaction
        Begin a unit of one statement, which commits by itself, or of several, committed together.
    busy
        How many units are at work.
    """

    def __init__(self, settings: Settings, url: SecretStr, report: Callable[[], None]) -> None:
        timeout = settings.db_statement_timeout
        self._bound = timeout + _MARGIN if timeout else _WITHOUT_STATEMENT_TIMEOUT
        self._watch = Watchdog(self._bound)
        self._connector = Connector(connect_arguments(settings, url), most=max(1, settings.db_pool_size // 2))
        self._engine = create_pooled_engine(settings, self._connect)
        self._watch.listen(self._engine)
        self.alone: Begin = self._engine.connect
        self.transaction: Begin = self._engine.execution_options(isolation_level="READ COMMITTED").begin
        self._threads = ThreadPoolExecutor(settings.db_pool_size, thread_name_prefix="connect")
        self._slots = asyncio.Semaphore(settings.db_pool_size)
        self._pool_timeout = settings.db_pool_timeout
        self._report = report
        self.busy = 0

    def _connect(self) -> PsycopgConnection:
        # In a thread: to resolve a name, and to prove a password, takes a while.
        connection = await_(asyncio.get_running_loop().run_in_executor(self._threads, self._connector))
        self._watch.begin(connection)  # SQLAlchemy has questions of its own for its first one
        return connection

    @property
    def idle(self) -> int:
        """How many connections rest in the pool."""
        resting: int = self._engine.pool.checkedin()  # type: ignore[attr-defined]  # it is a QueuePool
        return resting

    async def run(self, begin: Begin, work: Callable[[Connection], T], *, repeat_if_lost: bool) -> T:
        """Wait for a connection's turn, then work. What has begun ends, also when nobody waits for it."""
        await self._turn()
        self._took(+1)
        unit = greenlet_spawn(self._work, begin, work, repeat_if_lost=repeat_if_lost)
        task = asyncio.get_running_loop().create_task(unit)
        task.add_done_callback(self._release)
        try:
            return await asyncio.shield(task)
        except SQLAlchemyError as error:
            if sqlstate_of(error) == READ_ONLY:
                # After a failover the old connections lead to what is now a standby.
                self._engine.dispose()
            raise typed_error(error) from error

    async def _turn(self) -> None:
        """Wait until a connection is free; whoever is cancelled meanwhile never had a turn."""
        if not self._slots.locked():
            await self._slots.acquire()
            DB_POOL_WAIT.observe(0.0)
            return
        asked = time.perf_counter()
        try:
            with DB_POOL_WAITING.track_inprogress():
                async with asyncio.timeout(self._pool_timeout):
                    await self._slots.acquire()
        except TimeoutError:
            raise DatabaseError("No database connection came free in time") from None
        DB_POOL_WAIT.observe(time.perf_counter() - asked)

    def _work(self, begin: Begin, work: Callable[[Connection], T], *, repeat_if_lost: bool) -> T:
        """Do a unit of work; what PostgreSQL rolled back for the sake of another is done again."""
        started = time.monotonic()
        for remaining in reversed(range(_TRIES)):
            try:
                with begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                lost = repeat_if_lost and error.connection_invalidated
                # After so long the server hangs, and we have cut the connection ourselves.
                late = time.monotonic() - started > self._bound
                if late or not remaining or not (lost or sqlstate_of(error) in REPEATABLE):
                    raise
                repeat_if_lost = repeat_if_lost and not lost
            await_(asyncio.sleep(random.uniform(0.0, 0.05)))  # noqa: S311 - jitter, so that two do not meet again
        raise AssertionError("unreachable")

    def _release(self, unit: "asyncio.Task[T]") -> None:
        self._slots.release()
        self._took(-1)
        if not unit.cancelled():
            unit.exception()  # nobody may be there any more to hear of it

    def _took(self, change: int) -> None:
        self.busy += change
        self._report()

    def look(self) -> None:
        """Free the units that wait for a server that hangs; call this every now and then."""
        late = self._watch.close_overdue()
        for connection in late:
            self._connector.avoid(address_of(connection))
        if late:
            # The idle ones lead there, too. A server that stopped may come back when another has long taken over.
            self._engine.dispose()

    def dispose(self) -> None:
        """Close the idle connections; those in use are closed when their work ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()
