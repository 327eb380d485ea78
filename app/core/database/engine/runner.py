"""Run units of work one after another on one connection.

A connection stays with its runner while there is work, and for a moment after that: taking it from the pool for each
statement, with a task and a greenlet, was a third of a statement's CPU time (docs/performance.md).
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from enum import IntEnum
from typing import Any, NamedTuple, cast

from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util.concurrency import await_

from app.core.database.engine.pool import check_out, is_dead
from app.core.database.engine.watchdog import Watchdog
from app.core.database.errors import REPEATABLE, sqlstate_of

Begin = Callable[[], AbstractContextManager[Connection]]
"""Begins a unit of several statements, committed together."""

_MAX_TRIES = 3
_MAX_USE = 60.0
"""Seconds after which a connection goes back to the pool, which recycles old ones."""


class Share(IntEnum):
    """Which connections a unit may use: the dearer it may be, the fewer."""

    ALL = 0
    """Batched units, which are quick and few."""
    MOST = 1
    LISTS = 2


class Unit:
    """A unit of work, and the future of its result.

    Attributes
    ----------
    begin
        None for a single statement, which commits by itself.
    context
        The context variables of the caller.
    """

    __slots__ = ("begin", "begun_at", "context", "future", "queued_at", "repeat_if_lost", "share", "timer", "work")

    def __init__(self, work: Callable[[Connection], Any], begin: Begin | None, *, repeat_if_lost: bool) -> None:
        self.work, self.begin, self.repeat_if_lost = work, begin, repeat_if_lost
        self.context: Context
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.queued_at = self.begun_at = 0.0
        self.share = Share.MOST
        self.timer: asyncio.TimerHandle | None = None


class Runner:
    """Holds at most one connection of `engine`. Runs in a greenlet.

    Parameters
    ----------
    engine
        In AUTOCOMMIT.
    watchdog
        Is told when a unit begins and ends.
    max_seconds
        How long a unit may hold a connection.
    """

    def __init__(self, engine: Engine, watchdog: Watchdog, max_seconds: float) -> None:
        self._engine, self._watchdog, self._max_seconds = engine, watchdog, max_seconds
        self._open: _Open | None = None
        self._was_idle = False
        self.next_unit: asyncio.Future[Unit | None] | None = None
        self.idle_since = 0.0

    @property
    def has_connection(self) -> bool:
        """Whether it holds one."""
        return self._open is not None

    def run(self, unit: Unit) -> None:
        """Run a unit in the context of its caller, and set its result."""
        try:
            result = unit.context.run(self._try, unit)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            if not unit.future.done():  # otherwise the caller was cancelled
                unit.future.set_exception(error)
        else:
            if not unit.future.done():
                unit.future.set_result(result)

    def wait_for_unit(self) -> Unit | None:
        """Wait for the next unit, or None to end."""
        self.idle_since = time.monotonic()
        self.next_unit = asyncio.get_running_loop().create_future()
        self._was_idle = True
        try:
            return await_(self.next_unit)
        finally:
            self.next_unit = None

    def _try(self, unit: Unit) -> Any:  # noqa: ANN401 - the result of the unit
        """Do the work; repeat it if PostgreSQL rolled it back for another transaction, or if it may be repeated."""
        started = time.monotonic()
        repeat_if_lost = unit.repeat_if_lost
        for remaining in reversed(range(_MAX_TRIES)):
            try:
                return self._together(unit.begin, unit.work) if unit.begin else self._alone(unit.work)
            except DBAPIError as error:
                lost = repeat_if_lost and error.connection_invalidated
                # Then the server hangs, and the watchdog has cut the connection.
                late = time.monotonic() - started > self._max_seconds
                if late or not remaining or not (lost or sqlstate_of(error) in REPEATABLE):
                    raise
                repeat_if_lost = repeat_if_lost and not lost
            # Jitter, so that the two units do not conflict again.
            await_(asyncio.sleep(random.uniform(0.0, 0.05)))  # noqa: S311
        raise AssertionError("unreachable")

    def _together(self, begin: Begin, work: Callable[[Connection], Any]) -> Any:  # noqa: ANN401
        self.close()
        with begin() as connection:
            return work(connection)

    def _alone(self, work: Callable[[Connection], Any]) -> Any:  # noqa: ANN401
        open_ = self._ready_connection()
        self._watchdog.begin(open_.raw)
        try:
            result = work(open_.connection)
            open_.connection.rollback()  # sends nothing in AUTOCOMMIT: it ends what SQLAlchemy calls a transaction
        except BaseException:
            self.close()
            raise
        self._watchdog.end(open_.raw)
        if open_.connection.get_execution_options() is not open_.options:
            self.close()  # the unit has changed them
        return result

    def _ready_connection(self) -> "_Open":
        if self._open is not None:
            was_idle, self._was_idle = self._was_idle, False
            old = time.monotonic() - self._open.since > _MAX_USE
            if not (old or (was_idle and is_dead(self._open.raw))):
                return self._open
            self.close()
        connection = check_out(self._engine)
        raw = cast("PsycopgConnection", connection.connection.dbapi_connection)
        self._open = _Open(connection, raw, connection.get_execution_options(), time.monotonic())
        return self._open

    def close(self) -> None:
        """Give the connection back to the pool."""
        open_, self._open = self._open, None
        if open_ is not None:
            open_.connection.close()


class _Open(NamedTuple):
    """A connection taken from the pool: SQLAlchemy's, psycopg2's, its execution options, and when it was taken."""

    connection: Connection
    raw: PsycopgConnection
    options: object
    since: float
