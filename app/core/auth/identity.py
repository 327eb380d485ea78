"""The caller of a request, as its token describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller of a request.

    Attributes
    ----------
    subject
        `sub` of the token; None where authentication is off.
    scopes
        What the token allows.
    claims
        Every claim of the verified token.
    """

    subject: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)


ANONYMOUS = Identity()
"""Every caller, where authentication is off."""
