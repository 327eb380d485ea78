"""Request bodies: strict JSON.

The standard decoder, made to reject what RFC 8259 leaves open or forbids: duplicate names, NaN and Infinity, numbers
that are no double, lone surrogates, deep nesting, other encodings than UTF-8. Most of these a handler could not even
send back. A number with a fraction is a `float` that keeps its text, so that money is exact.
"""

import asyncio
import json
import math
import re
from functools import lru_cache
from typing import Any, Self

from fastapi import Request
from starlette._utils import AwaitableOrContextManager
from starlette.datastructures import FormData

from app.core.errors import InvalidInput, UnsupportedMediaType
from app.core.middleware.limits.forms import LONGEST_FIELD

JSON = "application/json"
MERGE_PATCH_JSON = "application/merge-patch+json"
# Values in one body. A batch of 1,000 items has 5,000. Unknown members cost most: 50 ms for 8,000.
MAX_VALUES = 8_000
# Levels of arrays and objects. FastAPI and pydantic can send back some 250; other parsers take 64 to 128.
_MAX_DEPTH = 64
# Bytes. A larger body may take milliseconds to parse, so other tasks run between two of them.
_LARGE = 16 * 1024


class JSONNumber(float):
    """A JSON number with a fraction or an exponent.

    Attributes
    ----------
    text
        As it was sent: every digit of it.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Create it from its text."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member name")
    return members


def _finite(text: str) -> JSONNumber:
    number = JSONNumber(text)
    if math.isinf(number):
        raise ValueError("too large")
    return number


_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_reject_constant, object_pairs_hook=_unique).decode


def parse_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Decode a body.

    Raises
    ------
    json.JSONDecodeError
        For anything that is wrong with it, numbers that are too long or too large included.
    InvalidInput
        If it has more than `MAX_VALUES` values, since neither parsing nor validation may hold up the event loop, or is
        nested in more than `_MAX_DEPTH` levels.
    """
    if _has_too_many_values(body):
        raise _refused(f"has more than {MAX_VALUES} values", "too_many_values")
    try:
        value = _decode(body.decode("utf-8"))
        if b"\\u" in body and _SURROGATE.search(body) is not None:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is a ValueError
    except json.JSONDecodeError:
        raise
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise json.JSONDecodeError("Invalid JSON", "", 0) from error
    if _is_too_deep(body):
        raise _refused(f"is nested in more than {_MAX_DEPTH} levels", "too_deep")
    return value


def _refused(message: str, kind: str) -> InvalidInput:
    return InvalidInput(errors=[{"loc": ["body"], "msg": message, "type": kind}])


async def decode_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Decode a body as `parse_json` does; of several large ones, one per iteration of the event loop."""
    if len(body) <= _LARGE:
        return parse_json(body)
    async with _lock_of(asyncio.get_running_loop()):
        await asyncio.sleep(0)
        return parse_json(body)


class JSONRequest(Request):
    """A request whose body is read as `decode_json` does."""

    async def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the body; as Starlette does, the same object each time."""
        if not hasattr(self, "_json"):
            self._json = await decode_json(await self.body())
        return self._json


def for_handler(request: Request) -> Request:
    """Return the request for what reads the body itself; one that a subclass of the route made stays."""
    return _HandlersRequest(request.scope, request.receive) if type(request) is Request else request


class _NotJSON(InvalidInput, json.JSONDecodeError):
    """A handler may catch it as the decoder's; if it does not, the answer is 422, not 500."""

    code, default_message = InvalidInput.code, InvalidInput.default_message


class _HandlersRequest(JSONRequest):
    async def json(self) -> Any:  # noqa: ANN401 - any JSON value
        try:
            return await super().json()
        except json.JSONDecodeError as error:
            refused = _NotJSON(errors=[{"loc": ["body"], "msg": "JSON decode error", "type": "json_invalid"}])
            json.JSONDecodeError.__init__(refused, error.msg, error.doc, error.pos)
            raise refused from None

    def form(
        self, *, max_files: float = 1000, max_fields: float = 1000, max_part_size: int = LONGEST_FIELD
    ) -> AwaitableOrContextManager[FormData]:
        return super().form(max_files=max_files, max_fields=max_fields, max_part_size=max_part_size)


@lru_cache(maxsize=1)
def _lock_of(_loop: asyncio.AbstractEventLoop) -> asyncio.Lock:
    return asyncio.Lock()


def _has_too_many_values(body: bytes) -> bool:
    """Return whether the JSON text in `body` has more than `MAX_VALUES` values, before it is parsed.

    Each value but the first of an array or object follows a comma, and each first one a bracket. The content
    of strings does not count; they are removed only from a body with many separators.
    """
    if _count_separators(body) <= MAX_VALUES:
        return False
    body = _without_escapes(body)
    if body.count(b'"') > 4 * MAX_VALUES:  # a name and a value each
        return True
    return _count_separators(b"".join(body.split(b'"')[::2])) > MAX_VALUES


def _without_escapes(body: bytes) -> bytes:
    return body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes({*range(256)} - {*b'[]{}"'})


def _is_too_deep(body: bytes) -> bool:
    """Return whether a valid JSON text is nested in more than `_MAX_DEPTH` levels: each pass removes the innermost."""
    if body.count(b"[") + body.count(b"{") <= _MAX_DEPTH:
        return False
    brackets = b"".join(_without_escapes(body).translate(_BRACKETS, _OTHERS).split(b'"')[::2])
    for _ in range(_MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _count_separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def accepted_by(method: str) -> tuple[str, ...]:
    """Return the media types of the bodies of a method."""
    return (JSON, MERGE_PATCH_JSON) if method == "PATCH" else (JSON,)


def require_media_type(request: Request) -> None:
    """Reject another media type, or a content coding, before the body is read (RFC 9110, section 15.5.16)."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return  # the schema's own error says more about a missing body
    # Of several fields, a proxy might read another one than this service; joined, they match no media type.
    media_type = ",".join(headers.getlist("content-type")).partition(";")[0].strip().lower()
    codings = [coding.strip().lower() for coding in headers.getlist("content-encoding")]
    accepted = accepted_by(request.method)
    if media_type not in accepted or any(coding != "identity" for coding in codings):
        names = " or ".join(accepted)
        raise UnsupportedMediaType(
            f"The body must be {names}, not encoded", headers={"Accept": names.replace(" or", ",")}
        )
