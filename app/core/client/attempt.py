"""One try: send, read within bounds, and say what happened."""

import secrets

import httpx2

from app.core.client.failure import Failure, Outcome
from app.core.client.retry import seconds_of
from app.core.observability.trace_id import is_sampled, w3c_trace_id

MAX_BODY_BYTES = 1024 * 1024
"""Of an answer, after decompression."""
_RETRYABLE = {429, 502, 503, 504}


def trace_headers(trace_id: str) -> dict[str, str]:
    """Make the trace headers of one try; it is a span of its own.

    All calls of one request share a trace, whatever its trace id looks like. Whether it is recorded is the caller's
    choice: we pass its flag on. With OpenTelemetry on, the span of the try replaces both values.
    """
    flags = "01" if is_sampled() else "00"
    traceparent = f"00-{w3c_trace_id(trace_id)}-{secrets.token_hex(8)}-{flags}"
    return {"X-Trace-ID": trace_id, "traceparent": traceparent}


async def attempt(pool: httpx2.AsyncClient, url: str, trace_id: str) -> bytes | None:
    """Ask once.

    Returns
    -------
    bytes or None
        The body of a 200; None for a 404.

    Raises
    ------
    Failure
        For any other status, for a body that is too long or cannot be decompressed, and where there is no answer.
    """
    try:
        async with pool.stream("GET", url, headers=trace_headers(trace_id)) as response:
            if response.status_code not in {200, 404}:
                raise _refusal(response)
            body = await _bounded(response)
    except httpx2.TimeoutException as error:
        # Only a connection that was never made is a connection error; a service that is slow is not asked again.
        unconnected = isinstance(error, httpx2.ConnectTimeout)
        raise Failure(Outcome.TIMEOUT, down=True, retryable=unconnected) from error
    except httpx2.DecodingError as error:
        raise Failure(Outcome.INVALID_RESPONSE, status=response.status_code) from error
    except httpx2.TransportError as error:
        # Refused, reset, closed too early, or no HTTP at all: a GET may be repeated wherever it broke.
        raise Failure(Outcome.CONNECTION_ERROR, down=True, retryable=True) from error
    return body if response.status_code == 200 else None


def _refusal(response: httpx2.Response) -> Failure:
    status = response.status_code
    return Failure(
        Outcome.HTTP_ERROR,
        status=status,
        down=status >= 500,
        retryable=status in _RETRYABLE,
        retry_after=seconds_of(response.headers.get("Retry-After")),
    )


async def _bounded(response: httpx2.Response) -> bytes:
    """Read a body, or stop where it gets too long: httpx2 decompresses at most 1 MiB at a time."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Failure(Outcome.INVALID_RESPONSE, status=response.status_code)
    return bytes(body)
