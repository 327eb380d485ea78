"""One attempt: send a request, and read the response up to a limit."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2

from app.core.client.failure import Failure, Outcome
from app.core.client.retry import seconds_of
from app.core.observability.trace_id import is_sampled, w3c_trace_id

MAX_BODY_BYTES = 1024 * 1024
"""Limit of a response body, after decompression."""
_RETRYABLE = {429, 502, 503, 504}
_WRITTEN = {200, 201, 202, 204, 404}
_ANSWERS = {"GET": {200, 404}, "POST": _WRITTEN, "PUT": _WRITTEN, "PATCH": _WRITTEN, "DELETE": _WRITTEN}


def trace_headers(trace_id: str) -> dict[str, str]:
    """Make the trace headers of one attempt, which is a span of its own.

    All calls of one request share a trace, whatever the form of its trace id. The caller's sampled flag is passed on.
    With OpenTelemetry, the span of the attempt replaces both values.
    """
    flags = "01" if is_sampled() else "00"
    traceparent = f"00-{w3c_trace_id(trace_id)}-{secrets.token_hex(8)}-{flags}"
    return {"X-Trace-ID": trace_id, "traceparent": traceparent}


@dataclass(frozen=True, slots=True)
class Call:
    """A request to another service.

    Attributes
    ----------
    repeatable
        Whether it may be sent again although it may have been carried out.
    timeout
        Seconds for each read and write; the deadline of the whole call is kept elsewhere.
    """

    method: str
    url: str
    repeatable: bool
    timeout: httpx2.Timeout
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


async def attempt(pool: httpx2.AsyncClient, call: Call, trace_id: str) -> bytes | None:
    """Send a request once.

    Returns
    -------
    bytes or None
        The body of a 200, 201, 202 or 204; None for a 404.

    Raises
    ------
    Failure
        For any other status, for a body that is too long or cannot be decompressed, and if there is no response.
    """
    try:
        headers = {**call.headers, **trace_headers(trace_id)}
        async with pool.stream(
            call.method, call.url, content=call.content, headers=headers, timeout=call.timeout
        ) as response:
            if response.status_code not in _ANSWERS[call.method]:
                raise _http_error(response, repeatable=call.repeatable)
            body = await _read_limited(response)
    except httpx2.TimeoutException as error:
        # Only a failed connection is retried: another request would add to the load of a slow service.
        unconnected = isinstance(error, httpx2.ConnectTimeout)
        raise Failure(Outcome.TIMEOUT, down=True, retryable=unconnected) from error
    except httpx2.DecodingError as error:
        raise Failure(Outcome.INVALID_RESPONSE, status=response.status_code) from error
    except httpx2.TransportError as error:
        # Refused, reset, closed too early, or not HTTP. What was never sent may be sent again.
        unsent = isinstance(error, httpx2.ConnectError)
        raise Failure(Outcome.CONNECTION_ERROR, down=True, retryable=call.repeatable or unsent) from error
    return None if response.status_code == 404 else body


def _http_error(response: httpx2.Response, *, repeatable: bool) -> Failure:
    status = response.status_code
    return Failure(
        Outcome.HTTP_ERROR,
        status=status,
        down=status >= 500,
        retryable=repeatable and status in _RETRYABLE,
        retry_after=seconds_of(response.headers.get("Retry-After")),
    )


async def _read_limited(response: httpx2.Response) -> bytes:
    """Read a body up to the limit; httpx2 decompresses at most 1 MiB at a time."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Failure(Outcome.INVALID_RESPONSE, status=response.status_code)
    return bytes(body)
