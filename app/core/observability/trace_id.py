"""Trace ids: read from the request or created, stored in a context variable, passed on.

The header `X-Trace-ID` is the service's own; `traceparent` is W3C Trace Context
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
# Whether the caller records its trace: services that are called should record it too.
is_sampled = _sampled.get
# The id of the span that `opentelemetry` began for a request without an id; the request uses it.
expect_trace_id = _expected.set
# The id of the span, where the request's own id does not have the W3C form.
set_otel_trace_id = _otel.set
get_otel_trace_id = _otel.get

# Called when work continues in the trace of another context; the module `opentelemetry` adds its span.
followers: list[Callable[[Context], None]] = []


def follow_trace(context: Context) -> None:
    """Use the trace of another context, and nothing else from it."""
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
    """Create a trace id of 32 hexadecimal digits."""
    return _expected.get() or f"{random.getrandbits(128):032x}"


def w3c_trace_id(trace_id: str) -> str:
    """Map a trace id to 32 lower-case hexadecimal digits (W3C Trace Context, section 3.2.2.3), always to the same."""
    if _W3C_ID.fullmatch(trace_id):
        return trace_id
    return hashlib.blake2b(trace_id.encode(), digest_size=16).hexdigest()


def trace_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Choose the trace id of a request.

    Parameters
    ----------
    headers
        The header fields as in ASGI: lower-case names, raw values.

    Returns
    -------
    str
        A valid `X-Trace-ID`, otherwise the trace id of a valid `traceparent`, otherwise a new one. A header that is
        invalid, or sent twice with different values, is ignored.
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
    # Version 00 has exactly four fields; later versions may add some.
    if version == b"00" and rest is not None:
        return None
    return Parent(trace_id.decode("ascii"), span_id.decode("ascii"), int(flags, 16))
