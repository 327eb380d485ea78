"""A circuit breaker: a service that is down gets no calls for a while, and then a single trial call.

No maintained library does this for asyncio: once half-open, purgatory 3.0, circuitbreaker 2.1 and pybreaker 1.4
admit every call at once, and the first two count a cancelled call as a failure.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from app.core.client.failure import Failure, Outcome
from app.core.observability.instruments import DOWNSTREAM_BREAKER

_log = logging.getLogger(__name__)

FAILURES_TO_OPEN = 5
"""Consecutive calls that failed, each after its retries."""
COOL_DOWN = 5.0
"""Seconds for which an open breaker rejects every call."""


class State(IntEnum):
    """The value of `downstream_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """The breaker of one service in this process. Used on the event loop only, so it needs no lock."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._gauge = DOWNSTREAM_BREAKER.labels(service)
        self._gauge.set(State.CLOSED)
        self._state = State.CLOSED
        self._failures = 0
        self._opened_at = 0.0
        self._on_trial = False

    @contextmanager
    def guard(self) -> Iterator[bool]:
        """Admit a call and record its outcome, or reject it.

        Yields
        ------
        bool
            Whether the call is the trial of a half-open breaker.

        Raises
        ------
        Failure
            With `Outcome.BREAKER_OPEN`, without making the call.
        """
        trial = self._admit()
        try:
            yield trial
        except Failure as failure:
            self._record(trial=trial, down=failure.down)
            raise
        else:
            self._record(trial=trial, down=False)
        finally:
            # A cancelled trial has no outcome: the next call is the trial.
            if trial:
                self._on_trial = False

    def _admit(self) -> bool:
        if self._state is State.CLOSED:
            return False
        left = self._opened_at + COOL_DOWN - time.monotonic()
        if left > 0 or self._on_trial:
            raise Failure(Outcome.BREAKER_OPEN, retry_after=max(left, 0.0))
        self._on_trial = True
        self._set_state(State.HALF_OPEN)
        return True

    def _record(self, *, trial: bool, down: bool) -> None:
        if not trial and self._state is not State.CLOSED:
            return  # it began before the breaker opened
        self._failures = self._failures + 1 if down else 0
        if not down:
            self._set_state(State.CLOSED)
        elif trial or self._failures >= FAILURES_TO_OPEN:
            self._opened_at = time.monotonic()
            self._set_state(State.OPEN)

    def _set_state(self, state: State) -> None:
        if state is not self._state:
            name = state.name.lower().replace("_", "-")
            _log.warning("circuit breaker of %s is %s", self._service, name, extra={"downstream": self._service})
        self._state = state
        self._gauge.set(state)
