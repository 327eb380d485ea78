"""The database of the service: it runs the units of work.

A unit holds a connection only while it runs, yields to the event loop while it waits for the server, and is committed
before the handler continues: FastAPI ends a `yield` dependency after the response is sent, which would be too late.
"""

import asyncio
import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from sqlalchemy import Connection
from sqlalchemy.exc import StatementError
from starlette.requests import HTTPConnection

from app.core.config import Settings
from app.core.database.batching import Batcher
from app.core.database.engine.dialect import StatementObserver
from app.core.database.engine.executor import Executor, Waiting
from app.core.database.engine.replica import Replica, UnusableError
from app.core.database.engine.runner import Share
from app.core.database.once import Once
from app.core.database.restrictions import one_statement, one_transaction, read_only
from app.core.errors import APIError, DatabaseError
from app.core.observability.instruments import DB_POOL_CONNECTIONS

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

BatchWork = Callable[[Connection, Sequence[Q]], Sequence[A]]

_CHECK = 0.5
"""Seconds between two checks for units that hang."""
_REPORT = 0.02
"""Seconds by which the gauges may be late: setting them twice for each statement took 16 us, a fortieth of a read."""
# Questions in a statement, and statements of one `work` that run at once (docs/performance.md).
_MAX_BATCH = 100
_MAX_IN_FLIGHT = 2
# A read that is not batched, such as a list, has this part of the statement timeout.
_READ_PART = 2
_in_use = DB_POOL_CONNECTIONS.labels("in_use")
_idle = DB_POOL_CONNECTIONS.labels("idle")


class Mode(Enum):
    """How a unit of work runs."""

    READ = auto()
    """Statements that each see what is committed when they begin; the server lets none of them write."""
    WRITE = auto()
    """One statement, which commits by itself."""
    TRANSACTION = auto()
    """Any number of statements, committed together."""
    AUTOCOMMIT = auto()
    """Statements that each commit by themselves. For `Resource`, which finds the reason if one changed nothing."""


class Database:
    """The primary, perhaps a replica, and the units of work that run on them. Create it in the event loop.

    A unit raises an `APIError` where the database fails: `DatabaseError` when it is unavailable or late, or when no
    connection came free within `DB_POOL_TIMEOUT`. A unit that PostgreSQL rolled back with 40001 or 40P01 is repeated,
    at most twice. Where the caller is cancelled, a unit that waits for a connection does not run, and one that has
    begun runs to its end.
    """

    def __init__(self, settings: Settings, observers: Sequence[StatementObserver] = ()) -> None:
        self._waiting = Waiting(settings.db_pool_size)
        self._primary = Executor(settings, settings.database_url, self._report, observers, self._waiting)
        url = settings.database_replica_url
        self._replica = Replica(settings, url, self._report, observers, self._waiting) if url else None
        self._executors = [executor for executor in (self._primary, self._replica) if executor]
        self._pool_timeout = settings.db_pool_timeout
        self._read_timeout = round(settings.db_statement_timeout * 1000 / _READ_PART)
        self._reporting = False
        self._batchers: weakref.WeakKeyDictionary[BatchWork[Any, Any], Batcher[Any, Any]] = weakref.WeakKeyDictionary()
        self._turns: weakref.WeakValueDictionary[Hashable, asyncio.Lock] = weakref.WeakValueDictionary()
        self._loop = asyncio.get_running_loop()
        self._watching = self._loop.create_task(self._watch())

    async def run(
        self, mode: Mode, work: Callable[[Connection], T], *, repeatable: bool = False, batched: bool = False
    ) -> T:
        """Run a unit of work, and commit it.

        Parameters
        ----------
        mode
            How it runs. A read goes to the replica if there is one.
        work
            Takes the connection. It may run several times.
        batched
            Whether `work` serves many calls: it may then use the connections that are reserved for such work. Another
            read has half of `DB_STATEMENT_TIMEOUT`.
        repeatable
            Whether `work` does nothing the second time, so that it may run again where the connection was lost and
            nobody knows whether it was committed. A read always may.
        """
        self._check_loop()
        share = Share.ALL if batched else Share.MOST
        if mode is Mode.TRANSACTION:
            return await self._primary.run(
                one_transaction(work), begin=self._primary.transaction, repeat_if_lost=repeatable, share=share
            )
        if mode is not Mode.READ:
            unit = one_statement(work) if mode is Mode.WRITE else work
            return await self._primary.run(unit, repeat_if_lost=repeatable, share=share)
        unit = read_only(work, 0 if batched else self._read_timeout)
        if self._replica is not None:
            with suppress(UnusableError):
                return await self._replica.read(unit, share=share)
        return await self._primary.run(unit, repeat_if_lost=True, share=Share.ALL if batched else Share.LISTS)

    async def run_in_turn(
        self,
        turn: Hashable,
        work: Callable[[Connection], T],
        *,
        mode: Mode = Mode.AUTOCOMMIT,
        repeatable: bool = False,
        late: type[APIError] = DatabaseError,
    ) -> T:
        """Run a unit after those with an equal `turn`, since they would wait for the same row.

        So a locked row takes one connection, however many clients wait for it.

        Parameters
        ----------
        turn
            Names the row.
        mode, repeatable
            As for `run`.
        late
            The error where its turn did not come within `DB_POOL_TIMEOUT`.

        Raises
        ------
        Overloaded
            Too many wait for theirs: they are requests in flight, of which others need some.
        """
        lock = self._turns.setdefault(turn, asyncio.Lock())
        if waits := lock.locked():
            self._waiting.enter()
        try:
            async with asyncio.timeout(self._pool_timeout):
                await lock.acquire()
        except TimeoutError:
            raise late from None
        finally:
            if waits:
                self._waiting.leave()
        with ExitStack() as held:
            held.callback(lock.release)

            def unit(connection: Connection) -> T:
                with held.pop_all():  # a unit that has begun ends, even where its caller is cancelled
                    return work(connection)

            return await self.run(mode, unit, repeatable=repeatable)

    def is_taken(self, turn: Hashable) -> bool:
        """Return whether a unit has this turn, so that one that does not wait for its own would overtake others."""
        lock = self._turns.get(turn)
        return lock is not None and lock.locked()

    async def run_batched(
        self,
        mode: Mode,
        work: BatchWork[Q, A],
        question: Q,
        *,
        repeatable: bool = False,
        reserved: bool = True,
        max_batch: int = _MAX_BATCH,
    ) -> A:
        """Run for one question what `work` does for many: calls that meet share a statement, and its commit.

        Parameters
        ----------
        mode, repeatable
            As for `run`.
        work
            Takes the connection and the questions, returns the results in their order. It runs in an empty context
            but for the trace of the first caller, so what it needs to know of a request is part of the question.
            Calls share a statement if they have the same `work`.
        question
            Of this call.
        reserved
            Whether `work` may use the connections that are reserved for batched work, because it is quick.
        max_batch
            How many calls share a statement: fewer, where an answer may be large.
        """
        self._check_loop()
        batcher = self._batchers.get(work)
        if batcher is None:
            # Neither the batcher nor what it calls keeps `work` alive.
            ask = partial(self._ask, mode, weakref.ref(work), repeatable=repeatable, reserved=reserved)
            batcher = self._batchers[work] = Batcher(ask, max_batch=max_batch, max_in_flight=_MAX_IN_FLIGHT)
        answer: A = await batcher(question)
        return answer

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "another event loop than the database's: a handler that uses the database is `async def`"
            )

    async def _ask(
        self,
        mode: Mode,
        work_of: "weakref.ref[BatchWork[Q, A]]",
        questions: Sequence[Q],
        *,
        repeatable: bool,
        reserved: bool,
    ) -> Sequence[A | Exception]:
        work = work_of()
        assert work is not None  # noqa: S101 - the callers hold it

        async def ask_alone(question: Q) -> A | Exception:
            try:
                (answer,) = await self.run(
                    mode, lambda connection: work(connection, [question]), repeatable=repeatable, batched=reserved
                )
            except Exception as error:  # noqa: BLE001 - it is this caller's
                return error
            return answer

        try:
            return await self.run(
                mode, lambda connection: work(connection, questions), repeatable=repeatable, batched=reserved
            )
        except APIError as error:
            # Another error, of `work` itself or of its result, may come after a statement that is committed.
            was_rejected = isinstance(error.__cause__, StatementError) and not isinstance(error, DatabaseError)
            if not was_rejected or len(questions) == 1:
                raise
            # PostgreSQL rejected a row, and inserted none: sent separately, only that one fails.
            return await asyncio.gather(*map(ask_alone, questions))

    def once(self, key: Once | None) -> "Database | Keyed":
        """Return this database for what is to happen once, if there is a key."""
        return self if key is None else Keyed(self, key)

    async def _watch(self) -> None:
        """Enforce timeouts without a timer for each: of units that hang, and of waits for a shared statement."""
        while True:
            await asyncio.sleep(_CHECK)
            for executor in self._executors:
                executor.check()
            for batcher in list(self._batchers.values()):
                batcher.expire(self._pool_timeout, DatabaseError("No database connection came free in time"))

    def _report(self) -> None:
        """Have the gauges set soon, once for whatever happens until then."""
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_later(_REPORT, self._set_gauges)

    def _set_gauges(self) -> None:
        self._reporting = False
        _in_use.set(sum(executor.busy for executor in self._executors))
        _idle.set(sum(executor.idle for executor in self._executors))

    def dispose(self) -> None:
        """Close the idle connections; those in use are closed when their work ends."""
        self._watching.cancel()
        for executor in self._executors:
            executor.dispose()


@dataclass(frozen=True, slots=True)
class Keyed:
    """A database for one operation that is to happen once."""

    database: Database
    key: Once


async def get_database(connection: HTTPConnection) -> Database:
    """Return the database of the application, for a dependency."""
    database: Database = connection.app.state["database"]  # as an attribute it would be an `AttributeError` first
    return database


DB = Annotated[Database, Depends(get_database)]
"""The database, for a handler: `await orders.get(db, order_id)`."""
