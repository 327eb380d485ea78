"""Access tokens: JWTs (RFC 7519, RFC 9068), verified by PyJWT as RFC 8725 advises, and remembered until they expire."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAlgorithmError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from app.core.auth.failures import AuthFailure, Reason
from app.core.auth.identity import Identity
from app.core.auth.jwks import ALGORITHMS
from app.core.auth.key_source import FileSource, IssuerSource, Source
from app.core.auth.keys import Keys
from app.core.config import Settings

LEEWAY = 30
"""Seconds by which clocks may differ."""
MAX_TOKEN_BYTES = 16 * 1024
_MAX_REMEMBERED = 4096
_LONGEST_SUBJECT = 255
_LATEST = 2**53
# RFC 9068, section 2.1; issuers that do not implement it send JWT or no type. Other types are not access tokens.
_TYPES = frozenset({"at+jwt", "application/at+jwt", "jwt"})
_REASONS: Mapping[type[PyJWTError], Reason] = {
    ExpiredSignatureError: Reason.EXPIRED,
    ImmatureSignatureError: Reason.NOT_YET_VALID,
    InvalidAlgorithmError: Reason.ALGORITHM,
    InvalidAudienceError: Reason.AUDIENCE,
    InvalidIssuerError: Reason.ISSUER,
    InvalidSignatureError: Reason.SIGNATURE,
    MissingRequiredClaimError: Reason.CLAIMS,
}


class Verifier:
    """Verifies tokens of one issuer for one audience.

    Parameters
    ----------
    keys
        The issuer's.
    issuer, audience
        What `iss` and `aud` must be.
    algorithms
        Signatures that are accepted.
    """

    def __init__(self, keys: Keys, issuer: str, audience: str, algorithms: Sequence[str]) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = list(algorithms)
        self._jwt = jwt.PyJWT({"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True})
        # By digest, so that no token stays in memory; with the time at which it expires.
        self._remembered: dict[bytes, tuple[float, Identity]] = {}
        self._generation = keys.generation

    def recall(self, token: bytes) -> Identity | None:
        """Return the caller of a token that was verified before, with keys that the issuer still has."""
        if self._generation != self._keys.generation:
            self._generation = self._keys.generation
            self._remembered.clear()
        known = self._remembered.get(blake2b(token, digest_size=32).digest())
        return known[1] if known is not None and time.time() < known[0] else None

    async def verify(self, token: bytes) -> Identity:
        """Verify a token, and remember its caller.

        Raises
        ------
        AuthFailure
            It is not valid, or there are no keys to verify it with.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise AuthFailure(Reason.MALFORMED)
        claims = await self._claims_of(token)
        identity = _identity(claims)
        if len(self._remembered) >= _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[blake2b(token, digest_size=32).digest()] = min(claims["exp"], _LATEST) + LEEWAY, identity
        return identity

    async def _claims_of(self, token: bytes) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = _checked(header, self._algorithms)
            key = await self._keys.find(header.get("kid"), algorithm)
            return self._jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
            )
        except PyJWTError as error:
            reason = next((r for kind, r in _REASONS.items() if isinstance(error, kind)), Reason.MALFORMED)
            raise AuthFailure(reason) from error


def _checked(header: Mapping[str, Any], algorithms: Sequence[str]) -> str:
    """Check what a header claims before a key is looked for; return its algorithm."""
    algorithm = header.get("alg")
    if algorithm not in algorithms:
        raise AuthFailure(Reason.ALGORITHM)
    kind = header.get("typ", "jwt")
    # No extension is supported (RFC 7515, section 4.1.11).
    if "crit" in header or not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise AuthFailure(Reason.MALFORMED)
    return str(algorithm)


def _identity(claims: dict[str, Any]) -> Identity:
    """Make the caller of verified claims; issuers that do not implement RFC 9068 name it in other claims."""
    subject = claims.get("sub") or claims.get("client_id") or claims.get("azp")
    exp = claims["exp"]
    if not isinstance(subject, str) or len(subject) > _LONGEST_SUBJECT or not subject.isprintable():
        raise AuthFailure(Reason.CLAIMS)
    if not isinstance(exp, int | float):
        raise AuthFailure(Reason.CLAIMS)
    return Identity(subject, _scopes(claims), claims)


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Read `scope` (RFC 8693, section 4.2), or `scp` of Microsoft and Okta, which may be a list."""
    scope = claims.get("scope", claims.get("scp", ""))
    parts = scope.split(" ") if isinstance(scope, str) else scope
    return (
        frozenset(part for part in parts if isinstance(part, str) and part) if isinstance(parts, list) else frozenset()
    )


@asynccontextmanager
async def verification(settings: Settings) -> AsyncIterator[Verifier]:
    """Create the verifier of the settings, and keep its keys up to date while the block runs."""
    assert settings.auth_issuer is not None  # noqa: S101 - the caller's condition
    assert settings.auth_audience is not None  # noqa: S101 - the settings have both or none
    algorithms = settings.auth_algorithms or ALGORITHMS
    source: Source
    if settings.auth_jwks_file is not None:
        source = FileSource(settings.auth_jwks_file)
    else:
        source = IssuerSource(settings.auth_issuer, settings.auth_jwks_url)
    keys = Keys(source, algorithms)
    async with keys.refreshed():
        yield Verifier(keys, settings.auth_issuer, settings.auth_audience, algorithms)
