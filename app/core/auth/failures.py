"""Why a token was not accepted: a closed set, which is the label of a metric."""

from enum import StrEnum
from typing import NoReturn, Self


class Reason(StrEnum):
    """The label `reason` of `auth_failures_total`, with the text for the client.

    Attributes
    ----------
    text
        One sentence for `error_description`: no quotes and no backslash (RFC 6750, section 3).
    """

    text: str

    def __new__(cls, label: str, text: str) -> Self:
        """Create a member from its label and its text."""
        reason = str.__new__(cls, label)
        reason._value_, reason.text = label, text
        return reason

    MISSING = "missing", "A bearer token is required"
    MALFORMED = "malformed", "The token is not a signed JWT that this service understands"
    ALGORITHM = "algorithm", "The signature algorithm is not accepted"
    UNKNOWN_KEY = "unknown_key", "The issuer has no such key"
    SIGNATURE = "signature", "The signature is not valid"
    EXPIRED = "expired", "The token has expired"
    NOT_YET_VALID = "not_yet_valid", "The token is not valid yet"
    ISSUER = "issuer", "The token is from another issuer"
    AUDIENCE = "audience", "The token is for another audience"
    CLAIMS = "claims", "A claim of the token is missing or not valid"
    SCOPE = "scope", "The token lacks a scope"
    KEYS_UNAVAILABLE = "keys_unavailable", "Tokens cannot be verified at the moment"


class AuthFailure(Exception):
    """A token was not accepted. `app.core.api.authentication` turns this into a response."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class NotStarted:
    """Takes the verifier's place until the application's lifespan has created it: no token is accepted."""

    def recall(self, _token: bytes) -> None:
        """Return None: no token has been verified."""

    async def verify(self, _token: bytes) -> NoReturn:
        """Raise `AuthFailure`."""
        raise AuthFailure(Reason.KEYS_UNAVAILABLE)
