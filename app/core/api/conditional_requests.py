"""Conditional requests: entity tags and the fields that carry them (RFC 9110, sections 8.8.3 and 13).

An entity tag here is the version of a row, in quotes: `"3"`. It is strong: every change makes a new one.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote

from fastapi import Depends, Request, Response

from app.core.api.openapi.operations import Description, documented, errors, header, header_parameter
from app.core.errors import APIError, HeadTooLarge, NotModified

_FIELDS = frozenset({b"if-match", b"if-none-match"})
# Characters: its tags take 0.4 ms to read.
_LONGEST_FIELD = 4096
_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


_IF_MATCH = header_parameter("If-Match", "Go on only if it is still this version", examples=['"3"'])
_IF_NONE_MATCH = header_parameter("If-None-Match", "Go on only if it is another version", examples=['"3"'])
_ETAG = {"ETag": header("The entity tag: it changes whenever the resource does", example='"3"')}
_LOCATION = {"Location": header("Path of the new resource")}


class _Identified(Protocol):
    @property
    def id(self) -> int: ...


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


Row = TypeVar("Row", bound=_Versioned)
New = TypeVar("New", bound=_Identified)


class PreconditionFailed(APIError):
    """The representation is not the one that the client has; nothing was changed."""

    status, default_message = 412, "It has changed since it was read"


class IgnoredConditions(RuntimeError):
    """A handler has changed a row without asking whether the conditions of its request hold."""


def entity_tag(version: int) -> str:
    """Write the entity tag of a version."""
    return f'"{version}"'


@dataclass(frozen=True)
class Preconditions:
    """What `If-Match` and `If-None-Match` ask. An invalid field matches nothing.

    Attributes
    ----------
    if_match, if_none_match
        The opaque tags, `None` where the field was not sent. `*` stands for any representation.
    """

    if_match: frozenset[str] | None
    if_none_match: frozenset[str] | None

    def require(self, version: int) -> None:
        """Raise `PreconditionFailed` unless a method that changes the representation may go on (section 13.2.2)."""
        if self.if_match is not None and not _names(self.if_match, version):
            raise PreconditionFailed
        if self.if_none_match is not None and _names(self.if_none_match, version):
            raise PreconditionFailed

    def not_modified(self, version: int) -> bool:
        """Return whether a GET is to be answered 304."""
        return self.if_none_match is not None and _names(self.if_none_match, version)

    def __bool__(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None


UNCONDITIONAL = Preconditions(None, None)


def _read_preconditions(request: Request) -> Preconditions:
    """Read the fields of a request: If-Match compares strongly, If-None-Match weakly."""
    if _FIELDS.isdisjoint([name for name, _ in request.scope["headers"]]):
        return UNCONDITIONAL
    return Preconditions(
        if_match=_parse(request.headers.getlist("if-match"), weak=False),
        if_none_match=_parse(request.headers.getlist("if-none-match"), weak=True),
    )


class ConditionalRequest:
    """The conditions of a request, and the fields of its answer that later conditions are made of."""

    __slots__ = ("_preconditions", "_request", "_response", "_taken")

    def __init__(self, request: Request, response: Response) -> None:
        self._request, self._response = request, response
        self._preconditions, self._taken = _read_preconditions(request), False

    @property
    def preconditions(self) -> Preconditions:
        """For a store function that changes a row."""
        self._taken = True
        return self._preconditions

    @property
    def asked(self) -> list[list[str] | None]:
        """For the fingerprint of a request with an `Idempotency-Key`, of which they are a part."""
        given = self.preconditions
        return [None if tags is None else sorted(tags) for tags in (given.if_match, given.if_none_match)]

    def require(self, row: Row) -> Row:
        """Return a row that a store function has locked and is about to change.

        Raises
        ------
        PreconditionFailed
            The row has another version than the client asks for (412).
        """
        self.preconditions.require(row.version)
        return row

    def checked(self, row: Row) -> Row:
        """Set `ETag` to the `version` of a row, and return the row.

        Raises
        ------
        NotModified
            The client of a GET has this version (304).
        IgnoredConditions
            Another method than GET has changed the row without regard to them: a defect of the handler, which its
            first request shows, with conditions or without.
        """
        tag = entity_tag(row.version)
        method = self._request.method  # a HEAD is a GET here: `RequestMiddleware` has made one of it
        if method == "GET" and self._preconditions.not_modified(row.version):
            raise NotModified(headers={"ETag": tag})
        if method != "GET" and not self._taken:
            raise IgnoredConditions("give `conditions` to the store function that changes the row")
        fields = self._response.raw_headers
        if fields:
            self._response.headers["ETag"] = tag
        else:
            fields.append((b"etag", tag.encode()))  # the same, without a search
        return row

    def created(self, row: New) -> New:
        """Set `Location` to the path of a new row, `ETag` if it has a `version`, and return the row."""
        headers = self._response.headers
        headers["Location"] = f"{quote(self._request.scope['path'])}/{row.id}"
        version: Any = getattr(row, "version", None)
        if version is not None:
            headers["ETag"] = entity_tag(version)
        return row


def _description(method: str, status: str) -> Description:
    answer = {"headers": _ETAG}
    if method == "GET":
        not_modified = {"description": "Not Modified", "headers": _ETAG}
        return {"parameters": [_IF_NONE_MATCH], "responses": {status: answer, "304": not_modified}}
    if method == "POST" and status == "201":
        return {"responses": {status: {"headers": _LOCATION | _ETAG}}}
    changed = {} if status == "204" else {status: answer}
    return {"parameters": [_IF_MATCH, _IF_NONE_MATCH], "responses": {**changed, **errors(PreconditionFailed)}}


@documented(_description)
async def _conditions(request: Request, response: Response) -> ConditionalRequest:
    return ConditionalRequest(request, response)


Conditions = Annotated[ConditionalRequest, Depends(_conditions)]
"""For a handler: `return conditions.checked(await orders.get(db, order_id))`."""


def _names(tags: frozenset[str], version: int) -> bool:
    return "*" in tags or str(version) in tags


def _parse(values: list[str], *, weak: bool) -> frozenset[str] | None:
    """Read a field: the strong tags, with `weak` also the weak ones (section 8.8.3.2)."""
    if not values:
        return None
    field = ",".join(values)
    if field.strip() == "*":
        return frozenset("*")
    if len(field) > _LONGEST_FIELD:
        raise HeadTooLarge
    # The tag `"*"` is a tag, not the star; no version is spelt so.
    tags = (match.groups() for match in _ENTITY_TAG.finditer(field))
    return frozenset(tag for prefix, tag in tags if tag != "*" and (weak or prefix is None))
