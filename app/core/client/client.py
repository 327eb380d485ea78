"""Another service that this one calls: the whole call, its log line and its metrics."""

import asyncio
import logging
import math
import time
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from app.core.client.attempt import attempt
from app.core.client.circuit_breaker import CircuitBreaker
from app.core.client.failure import Failure, Outcome
from app.core.client.retry import MAX_TRIES, RetryBudget, retrying
from app.core.errors import APIError, DownstreamError, DownstreamTimeout
from app.core.observability.instruments import DOWNSTREAM_DURATION, DOWNSTREAM_REQUESTS
from app.core.observability.trace_id import get_trace_id, new_trace_id

_log = logging.getLogger(__name__)

DEADLINE = 2.0
"""Seconds for a whole call: all attempts, waits and reads. httpx2's own timeouts start again with each read."""
_CONNECT_TIMEOUT = 0.5
"""Seconds: less than TCP takes to repeat a lost SYN (1 s, RFC 6298), because a new attempt is faster."""
_KEEP_ALIVE = 4.0
"""Seconds: less than the 5 s after which uvicorn and Node.js close an idle connection, possibly while it is reused."""
_MAX_CONNECTIONS = 50
"""To all services, in this process; a call beyond it waits for one, within its deadline."""

Answer = TypeVar("Answer", bound=BaseModel)


def new_pool() -> httpx2.AsyncClient:
    """Create the connection pool that all calls share; the caller closes it (`aclose`).

    It ignores the environment (proxies, `.netrc`), follows no redirects and stores no cookies: what is sent depends
    on the call alone.
    """
    return httpx2.AsyncClient(
        headers={"Accept": "application/json"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx2.Timeout(DEADLINE, connect=_CONNECT_TIMEOUT),
        limits=httpx2.Limits(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEP_ALIVE,
        ),
        follow_redirects=False,
        trust_env=False,
    )


class Downstream:
    """Another service that this one calls.

    Parameters
    ----------
    service
        Its name in logs and metrics.
    base_url
        Its URL, with or without a path.
    pool
        The pool of `new_pool`.
    """

    def __init__(self, service: str, base_url: str, pool: httpx2.AsyncClient) -> None:
        self._service = service
        self._base_url = base_url.rstrip("/")
        self._pool = pool
        self._breaker = CircuitBreaker(service)
        self._budget = RetryBudget()
        # Created at once: a series that starts with its first failure hides that failure from `rate()`.
        self._counters = {outcome: DOWNSTREAM_REQUESTS.labels(service, outcome) for outcome in Outcome}
        self._durations = DOWNSTREAM_DURATION.labels(service)

    async def get(self, path: str, model: type[Answer]) -> Answer | None:
        """Get `path`.

        Parameters
        ----------
        path
            Appended to the base URL; begins with a slash, and is quoted already.
        model
            The model of the JSON response.

        Returns
        -------
        Answer or None
            The response; None for a 404.

        Raises
        ------
        DownstreamTimeout
            There was no complete response within `DEADLINE`.
        DownstreamError
            There was no usable response, or the breaker is open.
        """
        started = time.perf_counter()
        try:
            with self._breaker.guard() as trial:
                answer = await self._call(path, model, tries=1 if trial else MAX_TRIES)
        except Failure as failure:
            self._report(failure, started)
            raise _typed_error(failure) from failure
        self._counters[Outcome.OK].inc()
        self._durations.observe(time.perf_counter() - started)
        return answer

    async def _call(self, path: str, model: type[Answer], tries: int) -> Answer | None:
        deadline = asyncio.get_running_loop().time() + DEADLINE
        trace_id = get_trace_id() or new_trace_id()
        self._budget.earn()
        try:
            async with asyncio.timeout_at(deadline):
                body: bytes | None = await retrying(tries, deadline, self._budget)(
                    attempt, self._pool, self._base_url + path, trace_id
                )
        except TimeoutError as error:
            raise Failure(Outcome.TIMEOUT, down=True) from error
        try:
            return None if body is None else model.model_validate_json(body)
        except ValidationError as error:
            raise Failure(Outcome.INVALID_RESPONSE, status=200) from error

    def _report(self, failure: Failure, started: float) -> None:
        self._counters[failure.outcome].inc()
        if failure.outcome is Outcome.BREAKER_OPEN:
            return  # it took no time, and the breaker has logged that it is open
        duration = time.perf_counter() - started
        self._durations.observe(duration)
        extra = {
            "downstream": self._service,
            "outcome": failure.outcome,
            "status": failure.status,
            "duration_ms": round(duration * 1000, 3),
        }
        _log.warning("call to %s failed: %s", self._service, failure.outcome, extra=extra)


def _typed_error(failure: Failure) -> APIError:
    """Choose the error for the client, which learns neither the URL nor the response."""
    if failure.outcome is Outcome.TIMEOUT:
        return DownstreamTimeout()
    if failure.outcome is Outcome.BREAKER_OPEN:
        return DownstreamError(headers={"Retry-After": str(max(1, math.ceil(failure.retry_after or 0.0)))})
    return DownstreamError()
