"""Query strings: UTF-8, and every parameter once."""

from collections import Counter
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from app.core.errors import InvalidInput

_LONGEST_NAME = 64


async def _once_and_utf_8(request: Request) -> None:
    """Refuse what the framework would guess at: the last of two values, U+FFFD for a byte that is no UTF-8."""
    raw: bytes = request.scope["query_string"]
    try:
        if b"%" in raw or not raw.isascii():
            parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except UnicodeError:
        problem = {"loc": ["query"], "msg": "Must be percent-encoded UTF-8", "type": "unicode_error"}
        raise InvalidInput(errors=[problem]) from None
    pairs = request.query_params.multi_items()
    if len(pairs) == len(request.query_params):
        return
    problems = [
        {"loc": ["query", name[:_LONGEST_NAME]], "msg": "Must be sent once", "type": "duplicate"}
        for name, count in Counter(name for name, _ in pairs).items()
        if count > 1
    ]
    raise InvalidInput(errors=problems)


StrictQuery = Depends(_once_and_utf_8)
"""For `dependencies=` of a route that takes query parameters."""
