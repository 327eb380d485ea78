"""Conditional requests: entity tags and the fields that carry them (RFC 9110, sections 8.8.3 and 13).

An entity tag here is the version of a row, in quotes: `"3"`. It is strong: every change makes a new one.
"""

import re
from dataclasses import dataclass

from fastapi import Request

from app.core.api.openapi import header_parameter
from app.core.errors import APIError

_FIELDS = frozenset({b"if-match", b"if-none-match"})
_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


# Read by `Preconditions.of`: as parameters of a handler they would cost every request, with conditions or without.
IF_MATCH = header_parameter("If-Match", "Go on only if it is still this version", examples=['"3"'])
IF_NONE_MATCH = header_parameter("If-None-Match", "Go on only if it is another version", examples=['"3"'])


class PreconditionFailed(APIError):
    """The representation is not the one that the client knows; nothing was changed."""

    code, status = "PRECONDITION_FAILED", 412
    default_message = "It has changed since it was read"


def entity_tag(version: int) -> str:
    """Write the entity tag of a version."""
    return f'"{version}"'


@dataclass(frozen=True)
class Preconditions:
    """What `If-Match` and `If-None-Match` ask; a field that cannot be read matches nothing.

    Attributes
    ----------
    if_match, if_none_match
        The opaque tags, `None` where the field was not sent. `*` stands for any representation.
    """

    if_match: frozenset[str] | None
    if_none_match: frozenset[str] | None

    @classmethod
    def of(cls, request: Request) -> "Preconditions":
        """Read them off a request: If-Match compares strongly, If-None-Match weakly."""
        if _FIELDS.isdisjoint([name for name, _ in request.scope["headers"]]):
            return _NONE
        headers = request.headers
        return cls(
            if_match=_parse(headers.getlist("if-match"), weak=False),
            if_none_match=_parse(headers.getlist("if-none-match"), weak=True),
        )

    def hold(self, version: int) -> bool:
        """Tell whether a method that changes the representation may go on (section 13.2.2)."""
        if self.if_match is not None and not _names(self.if_match, version):
            return False
        return self.if_none_match is None or not _names(self.if_none_match, version)

    def not_modified(self, version: int) -> bool:
        """Tell whether a GET is to be answered 304."""
        return self.if_none_match is not None and _names(self.if_none_match, version)

    def __bool__(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None


_NONE = Preconditions(None, None)


def _names(tags: frozenset[str], version: int) -> bool:
    return "*" in tags or str(version) in tags


def _parse(values: list[str], *, weak: bool) -> frozenset[str] | None:
    """Read a field: the strong tags, with `weak` also the weak ones (section 8.8.3.2)."""
    if not values:
        return None
    field = ",".join(values)
    if field.strip() == "*":
        return frozenset("*")
    # The tag `"*"` is a tag, not the star; no version is spelt so.
    tags = (match.groups() for match in _ENTITY_TAG.finditer(field))
    return frozenset(tag for prefix, tag in tags if tag != "*" and (weak or prefix is None))
