"""Run units of work on one server: its connections, and the queue in front of them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import TypeVar

from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.util.concurrency import await_, greenlet_spawn

from app.core.config import Settings
from app.core.database.engine.connector import Connector
from app.core.database.engine.dialect import StatementObserver, address_of
from app.core.database.engine.pool import begin_transactions, check_out, connect_arguments, create_pooled_engine
from app.core.database.engine.runner import Begin, Runner, Share, Unit
from app.core.database.engine.watchdog import Watchdog
from app.core.database.errors import READ_ONLY, sqlstate_of, typed_error
from app.core.errors import DatabaseError, Overloaded
from app.core.lifecycle import lifecycle
from app.core.observability.instruments import DB_POOL_WAIT, DB_POOL_WAITING

T = TypeVar("T")

# Seconds for which a unit may hold a connection: the server's statement timeout, and a margin.
_MARGIN = 2.0
_WITHOUT_STATEMENT_TIMEOUT = 30.0
_IDLE_SECONDS = 1.0
"""Seconds after which an idle runner returns its connection to the pool."""
# One connection in so many is for batched units only, and another one not for lists.
_RESERVED_PART = 4
_PRIORITY, _LONGEST_PRIORITY = 4, 1.0
"""Seconds that batched units may use for each one that another unit has used, and at most, before the next of those."""
# Units that may wait together: seven eighths of the requests that may be in flight (`app.core.application`).
_WAITING, _WAITING_PER_CONNECTION = 224, 28


class Waiting:
    """Counts the units that wait for what may take long: they are requests in flight, of which others need some.

    None may begin to wait while others, of whatever kind, have left few.

    Parameters
    ----------
    connections
        How many each worker may have.
    """

    def __init__(self, connections: int) -> None:
        self.number, self.limit = 0, max(_WAITING, _WAITING_PER_CONNECTION * connections)

    def enter(self) -> None:
        """Count one more, or raise `Overloaded` if that would be too many."""
        if self.number >= self.limit or lifecycle.crowded:
            raise Overloaded
        self.number += 1

    def leave(self) -> None:
        """Count one less."""
        self.number -= 1


class Executor:
    """Runs units of work on one server. Create it after the fork, in the event loop.

    Parameters
    ----------
    settings
        Those of the service.
    url
        The server, or several as libpq has it.
    report
        Called in the event loop whenever a unit begins or ends.
    observers
        Are told of every statement.
    waiting
        Counts the units that wait for a connection, but for the batched ones, which are few.

    Attributes
    ----------
    busy
        How many units are running.
    """

    def __init__(
        self,
        settings: Settings,
        url: SecretStr,
        report: Callable[[], None],
        observers: Sequence[StatementObserver] = (),
        waiting: Waiting | None = None,
    ) -> None:
        timeout = settings.db_statement_timeout
        self._max_seconds = timeout + _MARGIN if timeout else _WITHOUT_STATEMENT_TIMEOUT
        self._watchdog = Watchdog(self._max_seconds)
        self._connector = Connector(connect_arguments(settings, url), max_attempts=max(1, settings.db_pool_size // 2))
        self._engine = create_pooled_engine(settings, self._connect, observers)
        self._watchdog.listen(self._engine)
        self._threads = ThreadPoolExecutor(settings.db_pool_size, thread_name_prefix="connect")
        self._size = settings.db_pool_size
        self._pool_timeout = settings.db_pool_timeout
        self._report = report
        part = self._size // _RESERVED_PART
        self._limits = {share: self._size - share * part for share in Share}
        self._running = dict.fromkeys(Share, 0)
        self._queues: dict[Share, deque[Unit]] = {share: deque() for share in Share}
        self._batched_first = 0.0
        self._waiting = waiting or Waiting(self._size)
        self._runners: dict[Runner, asyncio.Task[None]] = {}
        self._idle_runners: list[Runner] = []
        self.busy = 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Begin a unit of several statements, committed together."""
        with check_out(self._engine) as connection:
            begin_transactions(connection)
            with connection.begin():
                yield connection

    def _connect(self) -> PsycopgConnection:
        # In a thread: resolving a name and proving a password take a while.
        connection = await_(asyncio.get_running_loop().run_in_executor(self._threads, self._connector))
        self._watchdog.begin(connection)  # SQLAlchemy's own queries on its first connection count, too
        return connection

    @property
    def idle(self) -> int:
        """How many open connections have no work."""
        pooled: int = self._engine.pool.checkedin()  # type: ignore[attr-defined]  # it is a QueuePool
        return pooled + sum(runner.has_connection for runner in self._idle_runners)

    async def run(
        self,
        work: Callable[[Connection], T],
        *,
        begin: Begin | None = None,
        repeat_if_lost: bool,
        share: Share = Share.MOST,
    ) -> T:
        """Do the work on the next free connection. What has begun ends, even if the caller is cancelled.

        Expensive lists, and units that wait for a lock, have a `share` of the connections, and of the requests in
        flight: where too many wait, the next one is rejected.
        """
        unit = Unit(work, begin, repeat_if_lost=repeat_if_lost)
        unit.share = share
        unit.context = copy_context()
        self._submit(unit)
        try:
            result: T = await unit.future
        except asyncio.CancelledError:
            self._withdraw(unit)
            raise
        except SQLAlchemyError as error:
            if sqlstate_of(error) == READ_ONLY:
                # After a failover the old connections lead to what is now a standby.
                self._close_idle()
            raise typed_error(error) from error
        return result

    def _submit(self, unit: Unit) -> None:
        """Give the unit to an idle runner or a new one, or queue it."""
        if not self._has_room(unit.share):
            self._enqueue(unit)
            return
        while self._idle_runners:
            next_unit = self._idle_runners.pop().next_unit
            if next_unit is not None and not next_unit.done():
                self._begin(unit)
                next_unit.set_result(unit)
                return
        if len(self._runners) < self._size:
            self._begin(unit)
            self._start(unit)
            return
        self._enqueue(unit)

    def _has_room(self, share: Share) -> bool:
        """Return whether one more unit may run: a limit is for its own share and those after it."""
        running = self._running
        return share is Share.ALL or (
            running[Share.MOST] + running[Share.LISTS] < self._limits[Share.MOST]
            and (share is Share.MOST or running[Share.LISTS] < self._limits[Share.LISTS])
        )

    def _enqueue(self, unit: Unit) -> None:
        if unit.share is not Share.ALL:
            self._waiting.enter()
        unit.queued_at = time.perf_counter()
        unit.timer = asyncio.get_running_loop().call_later(self._pool_timeout, self._expire, unit)
        DB_POOL_WAITING.inc()
        self._queues[unit.share].append(unit)

    def _withdraw(self, unit: Unit) -> None:
        """Take a unit that nobody waits for off its queue, if it is there: others have the place."""
        queue = self._queues[unit.share]
        if not unit.begun_at and unit in queue:
            queue.remove(unit)
            self._leave_queue(unit)

    def _start(self, unit: Unit) -> None:
        runner = Runner(self._engine, self._watchdog, self._max_seconds)
        # In a context of its own: between units it works for no request.
        task = asyncio.get_running_loop().create_task(greenlet_spawn(self._serve, runner, unit), context=Context())
        self._runners[runner] = task

    def _serve(self, runner: Runner, first: Unit) -> None:
        unit: Unit | None = first
        try:
            while unit is not None:
                runner.run(unit)
                self._end(unit)
                # Once released, it may have been counted for a unit that was queued meanwhile.
                unit = self._next() or self._wait_for_unit(runner) or self._next()
        finally:
            del self._runners[runner]
            runner.close()

    def _wait_for_unit(self, runner: Runner) -> Unit | None:
        self._idle_runners.append(runner)
        return runner.wait_for_unit()

    def _next(self) -> Unit | None:
        """Take the first unit off the queue whose caller still waits."""
        while (queue := self._next_queue()) is not None:
            unit = queue.popleft()
            self._leave_queue(unit)
            if not unit.future.done():
                self._begin(unit)
                return unit
        return None

    def _next_queue(self) -> deque[Unit] | None:
        """Choose batched units, unless they have had their part; of the others those that have waited longest."""
        batched, *others = (queue if queue and self._has_room(share) else None for share, queue in self._queues.items())
        other = min(filter(None, others), key=lambda queue: queue[0].queued_at, default=None)
        return batched if batched and (other is None or self._batched_first > 0) else other

    def _leave_queue(self, unit: Unit) -> None:
        DB_POOL_WAITING.dec()
        if unit.share is not Share.ALL:
            self._waiting.leave()
        if unit.timer is not None:
            unit.timer.cancel()

    def _begin(self, unit: Unit) -> None:
        unit.begun_at = time.perf_counter()
        DB_POOL_WAIT.observe(unit.begun_at - unit.queued_at if unit.queued_at else 0.0)
        self.busy += 1
        self._running[unit.share] += 1
        self._report()

    def _end(self, unit: Unit) -> None:
        self.busy -= 1
        self._running[unit.share] -= 1
        used = time.perf_counter() - unit.begun_at
        change = -used if unit.share is Share.ALL else used * _PRIORITY
        self._batched_first = min(max(self._batched_first + change, 0.0), _LONGEST_PRIORITY)
        self._report()

    def _expire(self, unit: Unit) -> None:
        if not unit.future.done():
            unit.future.set_exception(DatabaseError("No database connection came free in time"))
            self._withdraw(unit)

    def check(self) -> None:
        """Free the units that wait for a server that hangs, and connections without work; call this regularly."""
        late = self._watchdog.close_overdue()
        for connection in late:
            self._connector.avoid(address_of(connection))
        if late:
            # The idle ones lead there, too, and a stopped server may resume after another has taken over.
            self._close_idle()
        else:
            self._release(time.monotonic() - _IDLE_SECONDS)

    def _close_idle(self) -> None:
        self._release(time.monotonic())
        self._engine.dispose()

    def _release(self, since: float) -> None:
        """End the runners that have been idle since then."""
        for runner in [runner for runner in self._idle_runners if runner.idle_since <= since]:
            self._idle_runners.remove(runner)
            if runner.next_unit is not None and not runner.next_unit.done():
                runner.next_unit.set_result(None)

    def dispose(self) -> None:
        """Close the idle connections; those in use are closed when their work ends."""
        self._close_idle()
        self._threads.shutdown(wait=False, cancel_futures=True)
