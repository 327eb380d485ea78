"""Is the database there? Asked at most once a second, with a bound, on a connection and a thread of its own."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class

from app.core.config import Settings
from app.core.database.engine import connect

_log = logging.getLogger(__name__)

_FRESH = 1.0
"""Seconds for which an answer holds."""
_PATIENCE = 1.0
"""Seconds after which a database that has not answered is not there."""


class Probe:
    """Answers readiness probes, also while every database thread is busy."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probe")
        self._connection: PsycopgConnection | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._question: asyncio.Future[bool] | None = None
        self._answered = False
        self._answered_at = float("-inf")

    async def answers(self) -> bool:
        """Tell whether the database answered within the last second, asking it if need be.

        Callers that come while it is being asked wait for the same answer.
        """
        if time.monotonic() - self._answered_at < _FRESH:
            return self._answered
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._find_out())
        return await asyncio.shield(self._asking)

    async def _find_out(self) -> bool:
        if self._question is None or self._question.done():
            self._question = asyncio.get_running_loop().run_in_executor(self._thread, self._ask)
        try:
            answer = await asyncio.wait_for(asyncio.shield(self._question), _PATIENCE)
        except TimeoutError:
            answer = False
            self._cut()
        if answer != self._answered:
            _log.warning("the database %s", "answers" if answer else "does not answer")
        self._answered, self._answered_at = answer, time.monotonic()
        return answer

    def _ask(self) -> bool:
        try:
            if self._connection is None:
                self._connection = connect(self._settings)
                self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            self._forget()
            return False
        return True

    def _cut(self) -> None:
        """Wake the thread that waits for a server that does not answer: end its socket, not the thread."""
        connection = self._connection
        with contextlib.suppress(psycopg2.Error, OSError):
            if connection is not None:
                with socket.socket(fileno=os.dup(connection.fileno())) as copy:
                    copy.shutdown(socket.SHUT_RDWR)

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
