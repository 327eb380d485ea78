"""JSON Web Key Sets (RFC 7517): from the issuer's document to the keys that may verify a token."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jwt import PyJWK
from jwt.exceptions import PyJWTError

_log = logging.getLogger(__name__)

_MAX_KEYS = 100
# Type and curve of the keys of an algorithm (RFC 7518, section 3.1; RFC 8037, section 3.1).
_SHAPES = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
ALGORITHMS = tuple(_SHAPES)
"""Accepted where AUTH_ALGORITHMS is not set."""

KeySet = Mapping[tuple[str | None, str], PyJWK]
"""Keys by `kid` and algorithm, so that no key verifies with an algorithm that it is not for (RFC 8725, section 3.1)."""


def parse_jwks(document: Any, algorithms: Sequence[str]) -> KeySet:  # noqa: ANN401 - any JSON value
    """Read the keys for signatures of `algorithms`; others are skipped, as RFC 7517, section 5, requires.

    Raises
    ------
    ValueError
        There is no such key.
    """
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("not a JWK Set")  # noqa: TRY004 - one kind of error for a bad document
    keys: dict[tuple[str | None, str], PyJWK] = {}
    for jwk in members[:_MAX_KEYS]:
        for algorithm in algorithms:
            if isinstance(jwk, dict) and _is_for(jwk, algorithm) and (key := _load(jwk, algorithm)):
                keys.setdefault((key.key_id, algorithm), key)
    if not keys:
        raise ValueError("no usable key in the JWK Set")
    for algorithm in algorithms:  # a token may omit `kid` where there is no choice
        candidates = [key for (_, its_algorithm), key in keys.items() if its_algorithm == algorithm]
        if len(candidates) == 1:
            keys[None, algorithm] = candidates[0]
    return keys


def _is_for(jwk: dict[str, Any], algorithm: str) -> bool:
    kty, curve = _SHAPES[algorithm]
    return (
        jwk.get("kty") == kty
        and jwk.get("crv") == curve
        and jwk.get("alg", algorithm) == algorithm
        and jwk.get("use", "sig") == "sig"
        and "verify" in jwk.get("key_ops", ["verify"])
        and isinstance(jwk.get("kid", ""), str)
        and "d" not in jwk  # a private key is a mistake of the issuer
    )


def _load(jwk: dict[str, Any], algorithm: str) -> PyJWK | None:
    try:
        key = PyJWK(jwk, algorithm)
        weakness = key.Algorithm.check_key_length(key.key)
    except (PyJWTError, ValueError, TypeError, KeyError) as error:
        weakness = type(error).__name__
    if weakness is None:
        return key
    _log.warning("a key of the issuer is not usable: %s", weakness)
    return None
