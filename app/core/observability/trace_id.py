"""Trace ids: taken from the request or made, held in a context variable, sent on.

The header `X-Trace-ID` is ours; `traceparent` is W3C Trace Context
(https://www.w3.org/TR/trace-context/#traceparent-header).
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar
from typing import NamedTuple

_TRACE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_W3C_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SAMPLED = 1

_current: ContextVar[str | None] = ContextVar("trace_id", default=None)
_sampled: ContextVar[bool] = ContextVar("sampled", default=False)
_expected: ContextVar[str | None] = ContextVar("expected_trace_id", default=None)
_otel: ContextVar[str | None] = ContextVar("otel_trace_id", default=None)

set_trace_id = _current.set
get_trace_id = _current.get
# Whether the caller records its trace: then those that we call should, too.
is_sampled = _sampled.get
# The id of the span that `opentelemetry` began for a request without an id: the request takes it.
expect_trace_id = _expected.set
# The id of the span, where the request's own is not of the W3C's form.
set_otel_trace_id = _otel.set
get_otel_trace_id = _otel.get

# What else is to follow when work goes on in the trace of another context; the module `opentelemetry` adds its span.
followers: list[Callable[[Context], None]] = []


def follow_trace(context: Context) -> None:
    """Take the trace of another context, and nothing else of it."""
    _current.set(context.get(_current))
    _sampled.set(context.get(_sampled, False))
    _otel.set(context.get(_otel))
    for follow in followers:
        follow(context)


class Parent(NamedTuple):
    """A valid `traceparent`."""

    trace_id: str
    span_id: str
    flags: int


def new_trace_id() -> str:
    """Make a trace id of 32 hex digits."""
    return _expected.get() or f"{random.getrandbits(128):032x}"


def w3c_trace_id(trace_id: str) -> str:
    """Turn a trace id into 32 lower-case hex digits (W3C Trace Context, section 3.2.2.3), always the same ones."""
    if _W3C_ID.fullmatch(trace_id):
        return trace_id
    return hashlib.blake2b(trace_id.encode(), digest_size=16).hexdigest()


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
    given, parent = ids_of(headers)
    if parent is not None and parent.flags & _SAMPLED:
        _sampled.set(True)
    if given is not None:
        return given
    return parent.trace_id if parent is not None else new_trace_id()


def ids_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, Parent | None]:
    """Read a valid `X-Trace-ID` and a valid `traceparent`, or None for each."""
    given: set[bytes] = set()
    parents: set[bytes] = set()
    for name, value in headers:
        if name == b"x-trace-id":
            given.add(value)
        elif name == b"traceparent":
            parents.add(value)
    trace_id = parent = None
    if len(given) == 1 and _TRACE_ID.fullmatch(value := given.pop()):
        trace_id = value.decode("ascii")
    if len(parents) == 1:
        parent = _parent(parents.pop())
    return trace_id, parent


def _parent(traceparent: bytes) -> Parent | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    # Version 00 has exactly four fields; a later version may add some.
    if version == b"00" and rest is not None:
        return None
    return Parent(trace_id.decode("ascii"), span_id.decode("ascii"), int(flags, 16))
