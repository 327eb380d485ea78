"""Trace ids: taken from the request or made, held in a context variable, sent on.

The header `X-Trace-ID` is ours; `traceparent` is W3C Trace Context
(https://www.w3.org/TR/trace-context/#traceparent-header).
"""

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar

_TRACE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

_current: ContextVar[str | None] = ContextVar("trace_id", default=None)

set_trace_id = _current.set
get_trace_id = _current.get


def new_trace_id() -> str:
    """Make a trace id of 32 hex digits."""
    return secrets.token_hex(16)


def trace_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Choose the trace id of a request.

    Parameters
    ----------
    headers
        The header fields as ASGI has them: lower-case names, raw values.

    Returns
    -------
    str
        A valid `X-Trace-ID`, else the trace id of a valid `traceparent`, else a new one. A header
        that is bad, or that is sent twice with different values, counts as not sent.
    """
    given: set[bytes] = set()
    parents: set[bytes] = set()
    for name, value in headers:
        if name == b"x-trace-id":
            given.add(value)
        elif name == b"traceparent":
            parents.add(value)
    if len(given) == 1 and _TRACE_ID.fullmatch(value := given.pop()):
        return value.decode("ascii")
    if len(parents) == 1 and (match := _TRACEPARENT.fullmatch(parents.pop())):
        version, trace_id, rest = match.groups()
        # Version 00 has exactly four fields; a later version may add some.
        if version != b"00" or rest is None:
            return bytes(trace_id).decode("ascii")
    return new_trace_id()
