"""The executor of the replica: reads only, which the primary serves while the replica is unavailable."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from app.core.database.engine.executor import Executor
from app.core.database.engine.runner import Share
from app.core.database.errors import CANCELLED, REPEATABLE, sqlstate_of
from app.core.errors import DatabaseError

T = TypeVar("T")

_SUSPENSION = 5.0
"""Seconds for which a replica that failed is not used; then one request tries it."""

_log = logging.getLogger(__name__)


class UnusableError(Exception):
    """The replica is suspended, or did not answer: the primary must serve the read."""


class Replica(Executor):
    """Runs reads on the replica, unless it is suspended."""

    _suspended = False
    _retry_at = 0.0

    async def read(self, work: Callable[[Connection], T], *, share: Share = Share.MOST) -> T:
        """Run a read; `share` as for `Executor.run`.

        Raises
        ------
        UnusableError
            The primary must serve the read.
        """
        now = time.monotonic()
        if now < self._retry_at:
            raise UnusableError
        if self._suspended:
            self._retry_at = now + _SUSPENSION  # only this request tries it
        try:
            answer = await self.run(work, repeat_if_lost=True, share=share)
        except DatabaseError as error:
            state = sqlstate_of(error.__cause__) if error.__cause__ else ""
            if state == CANCELLED:
                raise  # the statement is slow, and would be on the primary, too
            if state not in REPEATABLE:  # a conflict with replication is not an outage
                self._suspend()
            raise UnusableError from error
        if self._suspended:
            _log.warning("the replica answers again")
        self._suspended, self._retry_at = False, 0.0
        return answer

    def _suspend(self) -> None:
        if not self._suspended:
            _log.warning("the replica does not answer: the primary reads")
        self._suspended, self._retry_at = True, time.monotonic() + _SUSPENSION
