"""Whether and when to retry: backoff with full jitter, `Retry-After`, a deadline and a budget.

Full jitter is that of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from app.core.client.failure import Failure

MAX_TRIES = 3
FIRST_BACKOFF = 0.1
"""Seconds: the first wait is random and at most this long, the next one at most twice as long."""
BUDGET_RATIO = 0.2
"""Retries that each call earns: in the long run they add at most this share to the load of a failing service."""
BUDGET_RATE = 1.0
"""Retries earned each second, so that calls to a rarely called service are retried too."""
BUDGET_SIZE = 10.0
"""Maximum number of saved retries."""

_backoff = wait_random_exponential(multiplier=FIRST_BACKOFF)


class RetryBudget:
    """A token bucket, filled by calls and emptied by retries: an outage must not triple the load.

    Finagle has the same two ways to earn (https://twitter.github.io/finagle/guide/Clients.html#retries).
    """

    def __init__(self) -> None:
        self._saved = BUDGET_SIZE
        self._filled_at = time.monotonic()

    def earn(self) -> None:
        """Count a call."""
        self._save(BUDGET_RATIO)

    def spend(self) -> bool:
        """Spend one retry; return whether there was one."""
        now = time.monotonic()
        self._save((now - self._filled_at) * BUDGET_RATE)
        self._filled_at = now
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def _save(self, retries: float) -> None:
        self._saved = min(BUDGET_SIZE, self._saved + retries)


def seconds_of(retry_after: str | None) -> float | None:
    """Read a `Retry-After` (RFC 9110, section 10.2.3).

    Returns
    -------
    float or None
        Seconds from now, 0 or more; None if it is missing, or is neither a number of seconds nor an HTTP date.
    """
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]+", retry_after):
        return float(retry_after) if len(retry_after) < 10 else math.inf
    try:
        moment = parsedate_to_datetime(retry_after)
        if moment.tzinfo is None:  # "-0000", which means UTC
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, ArithmeticError):
        return None


def _wait(state: RetryCallState) -> float:
    """Return `Retry-After` plus a random backoff, since other clients received the same `Retry-After`."""
    failure = state.outcome.exception() if state.outcome else None
    told = failure.retry_after if isinstance(failure, Failure) else None
    return (told or 0.0) + _backoff(state)


def retrying(tries: int, deadline: float, budget: RetryBudget) -> AsyncRetrying:
    """Make the retry loop of one call; tenacity keeps the state in it, so it cannot be shared.

    Parameters
    ----------
    tries
        Maximum number of attempts.
    deadline
        In the event loop's time; if a wait would end after it, the call fails at once.
    budget
        The budget that each retry is taken from.
    """
    now: Callable[[], float] = asyncio.get_running_loop().time

    def enough(state: RetryCallState) -> bool:
        late = now() + state.upcoming_sleep >= deadline
        # The budget comes last, since this spends a retry.
        return state.attempt_number >= tries or late or not budget.spend()

    return AsyncRetrying(
        sleep=asyncio.sleep,
        retry=retry_if_exception(lambda error: isinstance(error, Failure) and error.retryable),
        wait=_wait,
        stop=enough,
        reraise=True,
    )
