"""One try: send, read within bounds, and say what happened."""

import hashlib
import re
import secrets

import httpx2

from app.core.client.failure import Failure, Outcome
from app.core.client.retry import seconds_of

MAX_BODY_BYTES = 1024 * 1024
"""Of an answer, after decompression."""
_RETRYABLE = {429, 502, 503, 504}


def trace_headers(trace_id: str) -> dict[str, str]:
    """Make the trace headers of one try; it is a span of its own.

    `traceparent` holds 32 lower-case hex digits (W3C Trace Context, section 3.2.2.3). A trace id that is not of
    that form is hashed, so that all calls of one request share a trace nevertheless. The flags are 00: we record
    no span, and leave it to the other service whether it does.
    """
    if not re.fullmatch(r"(?!0{32})[0-9a-f]{32}", trace_id):
        trace = hashlib.blake2b(trace_id.encode(), digest_size=16).hexdigest()
    else:
        trace = trace_id
    return {"X-Trace-ID": trace_id, "traceparent": f"00-{trace}-{secrets.token_hex(8)}-00"}


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
