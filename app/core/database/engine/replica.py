"""An executor for reads only, which the primary stands in for."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from app.core.database.engine.executor import Executor
from app.core.database.errors import CANCELLED, REPEATABLE, sqlstate_of
from app.core.errors import DatabaseError

T = TypeVar("T")

_REST = 5.0
"""Seconds for which a replica that failed is not asked; then one request tries it."""

_log = logging.getLogger(__name__)


class UnusableError(Exception):
    """The replica is not to be asked now, or did not answer: the primary has to."""


class Replica(Executor):
    """Answers reads, while it can."""

    _rests = False
    _ask_at = 0.0

    async def read(self, work: Callable[[Connection], T], *, reserved: bool = False) -> T:
        """Run a read; `reserved` as for `Executor.run`.

        Raises
        ------
        UnusableError
            When the primary should be asked.
        """
        now = time.monotonic()
        if now < self._ask_at:
            raise UnusableError
        if self._rests:
            self._ask_at = now + _REST  # one tries, the others when it has been answered
        try:
            answer = await self.run(work, repeat_if_lost=True, reserved=reserved)
        except DatabaseError as error:
            state = sqlstate_of(error.__cause__) if error.__cause__ else ""
            if state == CANCELLED:
                raise  # it takes too long there, and so it would on the primary
            if state not in REPEATABLE:  # that is a conflict with what came from the primary, and no outage
                self._suspend()
            raise UnusableError from error
        if self._rests:
            _log.warning("the replica answers again")
        self._rests, self._ask_at = False, 0.0
        return answer

    def _suspend(self) -> None:
        if not self._rests:
            _log.warning("the replica does not answer: the primary reads")
        self._rests, self._ask_at = True, time.monotonic() + _REST
