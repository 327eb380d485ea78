"""Check whether the database answers and is writable: at most once a second, on a connection of its own."""

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class

from app.core.config import Settings
from app.core.database.engine.connector import Connector
from app.core.database.engine.pool import connect_arguments
from app.core.database.engine.watchdog import cut

_log = logging.getLogger(__name__)

_FRESH = 1.0
"""Seconds for which an answer is valid."""
_TIMEOUT = 1.0
"""Seconds after which the database counts as unavailable."""
_CONNECT_TIMEOUT = 2
"""Seconds, of which each of several hosts has its share."""


class HealthCheck:
    """Answers readiness probes, also while every connection is busy."""

    def __init__(self, settings: Settings) -> None:
        self._connect = Connector({**connect_arguments(settings), "connect_timeout": _CONNECT_TIMEOUT}, max_attempts=1)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="health-check")
        self._connection: PsycopgConnection | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._question: asyncio.Future[bool] | None = None
        self._answered = False
        self._answered_at = float("-inf")

    async def is_up(self) -> bool:
        """Return whether the database answered within the last second, asking it if need be.

        Callers that come while it is being asked wait for the same answer.
        """
        if time.monotonic() - self._answered_at < _FRESH:
            return self._answered
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._check())
        return await asyncio.shield(self._asking)

    async def _check(self) -> bool:
        if self._question is None or self._question.done():
            self._question = asyncio.get_running_loop().run_in_executor(self._thread, self._ask)
        try:
            answer = await asyncio.wait_for(asyncio.shield(self._question), _TIMEOUT)
        except TimeoutError:
            answer = False
            self._cut()
        if answer != self._answered:
            level, verb = (logging.INFO, "answers") if answer else (logging.WARNING, "does not answer")
            _log.log(level, "the database %s", verb)
        self._answered, self._answered_at = answer, time.monotonic()
        return answer

    def _ask(self) -> bool:
        try:
            connection = self._connection  # `close` may set it to None meanwhile
            if connection is None:
                connection = self._connection = self._connect()
                connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SHOW transaction_read_only")
                writable = cursor.fetchone() == ("off",)
        except psycopg2.Error:
            writable = False
        if not writable:
            # Of several hosts, the next connection finds the one that accepts writes.
            self._forget()
        return writable

    def _cut(self) -> None:
        if self._connection is not None:
            cut(self._connection)

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def close(self) -> None:
        """Close the probe's connection."""
        self._cut()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._forget()
