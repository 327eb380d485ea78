"""Units of work: the only way to SQL.

A handler gives a function of a feature's store to `Read`, `Write` or `Transaction`. It runs in one of as many
threads as the pool has connections, holds a connection only while it runs, and is committed before the
handler goes on: FastAPI ends a `yield` dependency after the response is sent, which would be too late.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Any, Concatenate, NewType, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.core.coalesce import Coalescer
from app.core.config import Settings
from app.core.database.engine import create_pooled_engine
from app.core.database.errors import READ_ONLY, REPEATABLE, sqlstate_of, typed_error
from app.core.errors import APIError, Conflict, DatabaseError, InvalidInput
from app.core.metrics import DB_POOL_CONNECTIONS, DB_POOL_WAIT

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

ReadConnection = NewType("ReadConnection", Connection)
"""What a reading function of a store takes."""
WriteConnection = NewType("WriteConnection", ReadConnection)
"""What a writing function of a store takes; it will do for a reading one, but not the other way round."""

Begin = Callable[[], AbstractContextManager[Connection]]

_TRIES = 3
# Questions that share a statement, and statements of a kind that are under way at once (docs/performance.md).
_TOGETHER = 100
_UNDER_WAY = 1
_in_use = DB_POOL_CONNECTIONS.labels("in_use")
_idle = DB_POOL_CONNECTIONS.labels("idle")


class ReadSession(Protocol):
    """Runs `work(connection, *args)` and returns what it returns."""

    async def __call__(
        self,
        work: Callable[Concatenate[ReadConnection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run it."""
        ...


class WriteSession(Protocol):
    """Runs `work(connection, *args)`, commits, and returns what it returned."""

    async def __call__(
        self,
        work: Callable[Concatenate[WriteConnection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run it."""
        ...


def _writing(connection: Connection) -> WriteConnection:
    return WriteConnection(ReadConnection(connection))


def _work(begin: Begin, work: Callable[[Connection], T], *, repeat_if_lost: bool) -> T:
    """Do a unit of work, in a thread; what PostgreSQL rolled back for the sake of another is done again."""
    for remaining in reversed(range(_TRIES)):
        try:
            with begin() as connection:
                return work(connection)
        except DBAPIError as error:
            lost = repeat_if_lost and error.connection_invalidated
            if not remaining or not (lost or sqlstate_of(error) in REPEATABLE):
                raise
            repeat_if_lost = repeat_if_lost and not lost
        time.sleep(random.uniform(0.0, 0.05))  # noqa: S311 - jitter, so that two do not meet again
    raise AssertionError("unreachable")


class ReadTogether(Protocol):
    """Runs `work(connection, questions)` for this question and those that meet it."""

    async def __call__(self, work: Callable[[ReadConnection, Sequence[Q]], Sequence[A]], /, question: Q) -> A:
        """Run it."""
        ...


class WriteTogether(Protocol):
    """Runs `work(connection, questions)` for this question and those that meet it, and commits."""

    async def __call__(self, work: Callable[[WriteConnection, Sequence[Q]], Sequence[A]], /, question: Q) -> A:
        """Run it."""
        ...


class Database:
    """One engine, its threads, and the queue in front of them. Make it after the fork, in the event loop.

    Every way to run a unit of work raise an `APIError` where the database fails: `DatabaseError` when
    it is away or late, or when no connection came free within `DB_POOL_TIMEOUT`. A unit that PostgreSQL rolled back
    with 40001 or 40P01 is repeated, at most twice.
    """

    def __init__(self, settings: Settings) -> None:
        self._engine = create_pooled_engine(settings)
        self._transactional = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._threads = ThreadPoolExecutor(settings.db_pool_size, thread_name_prefix="database")
        self._slots = asyncio.Semaphore(settings.db_pool_size)
        self._pool_timeout = settings.db_pool_timeout
        self._busy = 0
        self._coalescers: dict[Callable[..., Any], Coalescer[Any, Any]] = {}

    async def read(self, work: Callable[Concatenate[ReadConnection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read; where the connection is lost it is repeated, once."""
        begin = self._engine.connect
        return await self._run(begin, lambda c: work(ReadConnection(c), *args, **kwargs), repeat_if_lost=True)

    async def write(
        self, work: Callable[Concatenate[WriteConnection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a writing statement, which commits by itself; never repeated where its outcome is unknown."""
        begin = self._engine.connect
        return await self._run(begin, lambda c: work(_writing(c), *args, **kwargs), repeat_if_lost=False)

    async def repeatable_write(
        self, work: Callable[Concatenate[WriteConnection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a writing statement that does nothing the second time (an idempotency key makes it so)."""
        begin = self._engine.connect
        return await self._run(begin, lambda c: work(_writing(c), *args, **kwargs), repeat_if_lost=True)

    async def transaction(
        self, work: Callable[Concatenate[WriteConnection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run several statements and commit them together."""
        begin = self._transactional.begin
        return await self._run(begin, lambda c: work(_writing(c), *args, **kwargs), repeat_if_lost=False)

    async def read_together(self, work: Callable[[ReadConnection, Sequence[Q]], Sequence[A]], /, question: Q) -> A:
        """Read for one what `work` reads for many: calls that meet share a statement."""

        async def read_all(questions: Sequence[Q]) -> Sequence[A]:
            return await self.read(work, questions)

        return await self._together(work, read_all, question)

    async def write_together(self, work: Callable[[WriteConnection, Sequence[Q]], Sequence[A]], /, question: Q) -> A:
        """Write for one what `work` writes for many: calls that meet share a statement, and its commit."""

        async def write_alone(question: Q) -> A | Exception:
            try:
                (answer,) = await self.write(work, [question])
            except APIError as error:
                return error
            return answer

        async def write_all(questions: Sequence[Q]) -> Sequence[A | Exception]:
            try:
                return await self.write(work, questions)
            except (InvalidInput, Conflict):
                # PostgreSQL refused a row, and so took none: by itself, only the bad one fails.
                return await asyncio.gather(*map(write_alone, questions))

        return await self._together(work, write_all, question)

    async def _together(
        self,
        work: Callable[..., Sequence[A]],
        ask: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        question: Q,
    ) -> A:
        coalescer = self._coalescers.get(work)
        if coalescer is None:
            coalescer = self._coalescers[work] = Coalescer(ask, at_most=_TOGETHER, under_way=_UNDER_WAY)
        answer: A = await coalescer(question)
        return answer

    async def _run(self, begin: Begin, work: Callable[[Connection], T], *, repeat_if_lost: bool) -> T:
        """Wait for a connection's turn, then work in a thread."""
        asked = time.perf_counter()
        try:
            async with asyncio.timeout(self._pool_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise DatabaseError("No database connection came free in time") from None
        DB_POOL_WAIT.observe(time.perf_counter() - asked)
        self._count(+1)
        unit = partial(copy_context().run, _work, begin, work, repeat_if_lost=repeat_if_lost)
        future = asyncio.get_running_loop().run_in_executor(self._threads, unit)
        future.add_done_callback(self._release)
        try:
            return await future
        except SQLAlchemyError as error:
            if sqlstate_of(error) == READ_ONLY:
                # After a failover the old connections lead to what is now a standby.
                self._engine.dispose()
            raise typed_error(error) from error

    def _release(self, _: "asyncio.Future[T]") -> None:
        self._slots.release()
        self._count(-1)

    def _count(self, change: int) -> None:
        self._busy += change
        _in_use.set(self._busy)
        _idle.set(self._engine.pool.checkedin())  # type: ignore[attr-defined]  # it is a QueuePool

    def dispose(self) -> None:
        """Close the idle connections; those in use are closed when their work ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()
