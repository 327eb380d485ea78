"""Another service that this one calls: the whole call, its log line and its metrics."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from app.core.client.attempt import Call, attempt
from app.core.client.circuit_breaker import CircuitBreaker
from app.core.client.failure import Failure, Outcome
from app.core.client.retry import MAX_TRIES, RetryBudget, retrying
from app.core.errors import APIError, DownstreamError, DownstreamTimeout
from app.core.http_client import new_http_client
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
T = TypeVar("T")


def new_pool() -> httpx2.AsyncClient:
    """Create the connection pool that all calls share; the caller closes it (`aclose`).

    It stores no cookies, follows no redirects and ignores the environment: what is sent depends on the call alone.
    """
    return new_http_client(
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx2.Timeout(DEADLINE, connect=_CONNECT_TIMEOUT),
        limits=httpx2.Limits(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEP_ALIVE,
        ),
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
    deadline
        Seconds for a whole call; by default `DEADLINE`.
    """

    def __init__(self, service: str, base_url: str, pool: httpx2.AsyncClient, deadline: float | None = None) -> None:
        self._deadline = DEADLINE if deadline is None else deadline
        self._timeout = httpx2.Timeout(self._deadline, connect=_CONNECT_TIMEOUT)
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
            There was no complete response within the deadline.
        DownstreamError
            There was no usable response, or the breaker is open.
        """
        return await self._send("GET", path, model.model_validate_json, repeatable=True)

    async def post(
        self, path: str, model: type[Answer], body: BaseModel, *, idempotency_key: str | None = None
    ) -> Answer | None:
        """Post a body to `path`; returns and raises as `get` does.

        Parameters
        ----------
        path, model
            As for `get`.
        body
            Sent as JSON.
        idempotency_key
            Sent as `Idempotency-Key`. Only with one is the request sent again after a failure that may have come after
            it was carried out.
        """
        return await self._write("POST", path, model.model_validate_json, body, idempotency_key)

    async def put(
        self, path: str, model: type[Answer], body: BaseModel, *, idempotency_key: str | None = None
    ) -> Answer | None:
        """Put a body at `path`; otherwise as `post`."""
        return await self._write("PUT", path, model.model_validate_json, body, idempotency_key)

    async def patch(
        self, path: str, model: type[Answer], body: BaseModel, *, idempotency_key: str | None = None
    ) -> Answer | None:
        """Patch `path`; otherwise as `post`. Fields of the body that were not set are not sent."""
        return await self._write("PATCH", path, model.model_validate_json, body, idempotency_key)

    async def delete(self, path: str, *, idempotency_key: str | None = None) -> bool:
        """Delete `path`, and return whether it existed; otherwise as `post`."""
        return await self._write("DELETE", path, lambda _: True, None, idempotency_key) is not None

    async def _write(
        self, method: str, path: str, parse: Callable[[bytes], T], body: BaseModel | None, key: str | None
    ) -> T | None:
        content = None if body is None else body.model_dump_json(exclude_unset=method == "PATCH").encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return await self._send(method, path, parse, repeatable=key is not None, content=content, headers=headers)

    async def _send(
        self,
        method: str,
        path: str,
        parse: Callable[[bytes], T],
        *,
        repeatable: bool,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T | None:
        started = time.perf_counter()
        call = Call(method, self._base_url + path, repeatable, self._timeout, content, headers or {})
        try:
            with self._breaker.guard() as trial:
                body = await self._call(call, tries=1 if trial else MAX_TRIES)
                try:
                    answer = None if body is None else parse(body)
                except ValidationError as error:
                    raise Failure(Outcome.INVALID_RESPONSE, status=200) from error
        except Failure as failure:
            self._report(failure, started)
            raise _typed_error(failure) from failure
        self._counters[Outcome.OK].inc()
        self._durations.observe(time.perf_counter() - started)
        return answer

    async def _call(self, call: Call, tries: int) -> bytes | None:
        deadline = asyncio.get_running_loop().time() + self._deadline
        trace_id = get_trace_id() or new_trace_id()
        self._budget.earn()
        try:
            async with asyncio.timeout_at(deadline):
                body: bytes | None = await retrying(tries, deadline, self._budget)(attempt, self._pool, call, trace_id)
                return body
        except TimeoutError as error:
            raise Failure(Outcome.TIMEOUT, down=True) from error

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
