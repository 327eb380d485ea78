"""Requests as bytes, to a service."""

from typing import Any

from tests.support.http import JSON, TRACE_ID, Answer, assert_refused, parse
from tests.support.http import send as _send
from tests.support.service import Service

__all__ = ["JSON", "TRACE_ID", "Answer", "assert_refused", "parse", "send"]


def send(service: Service, *words: Any, **options: Any) -> Answer:
    """Send one request as it is; only framing and `Host` are added."""
    return _send(service.port, *words, **options)
