"""Why a token was not accepted: a closed set, which is the label of a metric."""

from enum import StrEnum
from typing import NoReturn


class Reason(StrEnum):
    """The label `reason` of `auth_failures_total`; `text` is what the client is told."""

    MISSING = "missing"
    MALFORMED = "malformed"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    CLAIMS = "claims"
    SCOPE = "scope"
    KEYS_UNAVAILABLE = "keys_unavailable"

    @property
    def text(self) -> str:
        """One sentence for `error_description`: no quotes and no backslash (RFC 6750, section 3)."""
        return _TEXTS[self]


_TEXTS = {
    Reason.MISSING: "A bearer token is required",
    Reason.MALFORMED: "The token is not a signed JWT that this service understands",
    Reason.ALGORITHM: "The signature algorithm is not accepted",
    Reason.UNKNOWN_KEY: "The issuer has no such key",
    Reason.SIGNATURE: "The signature is not valid",
    Reason.EXPIRED: "The token has expired",
    Reason.NOT_YET_VALID: "The token is not valid yet",
    Reason.ISSUER: "The token is from another issuer",
    Reason.AUDIENCE: "The token is for another audience",
    Reason.CLAIMS: "A claim of the token is missing or not valid",
    Reason.SCOPE: "The token lacks a scope",
    Reason.KEYS_UNAVAILABLE: "Tokens cannot be verified at the moment",
}


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
