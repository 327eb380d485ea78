"""Form bodies: Starlette parses them on the event loop, so they come in parts, in turn, in cheap character sets."""

import asyncio
from functools import lru_cache

from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive, Scope

from app.core.errors import UnsupportedMediaType

LONGEST_FIELD = 128 * 1024
"""Bytes of one field that is not a file, unless a route says otherwise: FastAPI's `form_limits`, `max_part_size`."""
_PART = 16 * 1024
# Parts that are parsed in one iteration of the event loop, whatever the number of forms: each takes up to 3 ms.
_AT_ONCE = 4
# Bytes; of 30 KB the parameters take 8 ms to read. A boundary has at most 70 characters (RFC 2046, section 5.1.1).
_LONGEST_MEDIA_TYPE = 1024
_MEDIA_TYPES = frozenset({b"multipart/form-data", b"application/x-www-form-urlencoded"})
# Starlette decodes with any codec of Python's, and some need seconds for a body (punycode), or make of it what is no
# text (utf-7). Forms are UTF-8 (RFC 7578, section 5.1). Python is not asked: it keeps each unknown name for ever.
_CHARSETS = frozenset(
    {b"utf-8", b"utf8", b"ascii", b"us-ascii", b"iso-8859-1", b"latin-1", b"latin1", b"windows-1252", b"cp1252"}
)


def form_receive(scope: Scope, receive: Receive) -> Receive:
    """Return `receive`, or for a form what calls it and gives small parts, between which other tasks run.

    Raises
    ------
    UnsupportedMediaType
        The form is in another character set, or its media type is longer than any that a client needs.
    """
    field = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if b"form" not in field.lower():
        return receive
    if len(field) > _LONGEST_MEDIA_TYPE:
        raise UnsupportedMediaType("The media type is too long")
    media_type, parameters = parse_options_header(field)
    if media_type not in _MEDIA_TYPES:
        return receive
    if parameters.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise UnsupportedMediaType("The character set of a form must be UTF-8")
    return _Parts(receive).receive


@lru_cache(maxsize=1)
def _turns_of(_loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    return asyncio.Semaphore(_AT_ONCE)


class _Parts:
    """The body of one request, in parts."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._message: Message = {}
        self._body, self._start = b"", 0

    async def receive(self) -> Message:
        """Return the next part."""
        if self._start >= len(self._body):
            self._message = await self._receive()
            self._body, self._start = self._message.get("body", b""), 0
        if self._body:
            async with _turns_of(asyncio.get_running_loop()):
                await asyncio.sleep(0)
        if len(self._body) <= _PART:
            self._start = len(self._body)
            return self._message
        part = self._body[self._start : self._start + _PART]
        self._start += _PART
        last = self._start >= len(self._body)
        return {**self._message, "body": part, "more_body": not last or self._message.get("more_body", False)}
