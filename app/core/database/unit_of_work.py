"""Units of work: the only way to SQL.

A handler gives a function of a feature's store to `Read`, `Write` or `Transaction`. It holds a
connection only while it runs, lets the event loop go on while it waits for the server, and is committed before the
handler goes on: FastAPI ends a `yield` dependency after the response is sent, which would be too late.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, NewType, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from app.core.config import Settings
from app.core.database.batching import Batcher
from app.core.database.engine.dialect import StatementObserver
from app.core.database.engine.executor import Executor
from app.core.database.engine.replica import Replica, UnusableError
from app.core.errors import APIError, Conflict, DatabaseError, InvalidInput
from app.core.observability.instruments import DB_POOL_CONNECTIONS

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

ReadConnection = NewType("ReadConnection", Connection)
"""What a reading function of a store takes."""
WriteConnection = NewType("WriteConnection", ReadConnection)
"""What a writing function of a store takes; it will do for a reading one, but not the other way round."""

_LOOK = 0.5
"""Seconds between two looks at what may hang."""
_REPORT = 0.02
"""Seconds by which the gauges may be late: to set them twice a statement was 16 us of a read's CPU time, a fortieth."""
# Questions that share a statement, and statements of a kind that are under way at once (docs/performance.md).
_TOGETHER = 100
_UNDER_WAY = 2
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
    """The primary, perhaps a replica, and what runs on them. Make it after the fork, in the event loop.

    Every way to run a unit of work raises an `APIError` where the database fails: `DatabaseError` when
    it is away or late, or when no connection came free within `DB_POOL_TIMEOUT`. A unit that PostgreSQL rolled back
    with 40001 or 40P01 is repeated, at most twice. A caller that is cancelled while it waits for its turn is not
    served; once its unit has begun, the unit ends.
    """

    def __init__(self, settings: Settings, observers: Sequence[StatementObserver] = ()) -> None:
        self._primary = Executor(settings, settings.database_url, self._report, observers)
        url = settings.database_replica_url
        self._replica = Replica(settings, url, self._report, observers) if url else None
        self._executors = [executor for executor in (self._primary, self._replica) if executor]
        self._pool_timeout = settings.db_pool_timeout
        self._reporting = False
        self._batchers: dict[Callable[..., Any], Batcher[Any, Any]] = {}
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def read(self, work: Callable[Concatenate[ReadConnection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read, on the replica if there is one; where the connection is lost it is repeated, once."""

        def unit(connection: Connection) -> T:
            return work(ReadConnection(connection), *args, **kwargs)

        if self._replica is not None:
            with contextlib.suppress(UnusableError):
                return await self._replica.read(unit)
        return await self._primary.run(unit, repeat_if_lost=True)

    async def write(
        self, work: Callable[Concatenate[WriteConnection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a writing statement, which commits by itself; never repeated where its outcome is unknown."""
        executor = self._primary
        return await executor.run(lambda c: work(_writing(c), *args, **kwargs), repeat_if_lost=False)

    async def repeatable_write(
        self, work: Callable[Concatenate[WriteConnection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a writing statement that does nothing the second time (an idempotency key makes it so)."""
        executor = self._primary
        return await executor.run(lambda c: work(_writing(c), *args, **kwargs), repeat_if_lost=True)

    async def transaction(
        self, work: Callable[Concatenate[WriteConnection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run several statements and commit them together."""
        executor = self._primary
        return await executor.run(
            lambda c: work(_writing(c), *args, **kwargs), begin=executor.transaction, repeat_if_lost=False
        )

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
        batcher = self._batchers.get(work)
        if batcher is None:
            batcher = self._batchers[work] = Batcher(ask, max_batch=_TOGETHER, max_in_flight=_UNDER_WAY)
        answer: A = await batcher(question)
        return answer

    async def _watch(self) -> None:
        """Bound what no timer of its own bounds: units that hang, and the wait for a shared statement."""
        while True:
            await asyncio.sleep(_LOOK)
            for executor in self._executors:
                executor.check()
            for batcher in self._batchers.values():
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
