"""An issuer's keys and the tokens that it signs, valid ones and hostile ones."""

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWS
from jwt.algorithms import Algorithm, get_default_algorithms

ISSUER = "https://id.example"
AUDIENCE = "things"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def new_key(algorithm: str) -> PrivateKey:
    """Make a private key for an algorithm."""
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def encode(part: Any) -> str:
    """Encode bytes, or a JSON value, as a segment of a token."""
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Make the claims of a valid token; a change to None removes a claim."""
    now = int(time.time())
    whole = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": now + 4 * 3600,  # tests make tokens when they are collected, and use them later
        "iat": now,
        "scope": "things:read things:write",
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


@dataclass
class Signer:
    """One key of an issuer."""

    kid: str | None = "k1"
    algorithm: str = "RS256"
    key: PrivateKey = field(default_factory=lambda: new_key("RS256"))

    @classmethod
    def of(cls, algorithm: str, kid: str | None = None) -> "Signer":
        """Make a key of a kind."""
        return cls(kid or algorithm, algorithm, new_key(algorithm))

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key, as a JWK Set has it."""
        algorithm: Algorithm = get_default_algorithms()[self.algorithm]
        jwk = algorithm.to_jwk(self.key.public_key(), as_dict=True)
        kid = {} if self.kid is None else {"kid": self.kid}
        return {**jwk, **kid, "use": "sig", "alg": self.algorithm}

    @property
    def pem(self) -> bytes:
        """The public key, as OpenSSL writes it."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, payload: Any, **header: Any) -> str:
        """Sign any payload under any header; a field that is None is left out."""
        whole = {"typ": "at+jwt", "alg": self.algorithm, "kid": self.kid, **header}
        signed = f"{encode({k: v for k, v in whole.items() if v is not None})}.{encode(payload)}"
        algorithm = get_default_algorithms()[self.algorithm]
        return f"{signed}.{encode(algorithm.sign(signed.encode(), self.key))}"

    def token(self, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """Make a valid token, or one that differs from it by these claims."""
        return self.sign(claims(**changes), **(header or {}))


def hmac_token(secret: bytes, kid: str) -> str:
    """Sign with a shared secret; PyJWT's own signing refuses a public key as one, so the algorithm is called."""
    signed = f"{encode({'typ': 'JWT', 'alg': 'HS256', 'kid': kid})}.{encode(claims())}"
    signature = PyJWS().get_algorithm_by_name("HS256").sign(signed.encode(), secret)
    return f"{signed}.{encode(signature)}"


def hostile_tokens(signer: Signer) -> dict[str, str]:
    """Make tokens that must be refused, by what is wrong with them; `signer` is an RSA key of the issuer."""
    now = int(time.time())
    stranger = Signer(signer.kid)
    header, payload, signature = signer.token().split(".")
    none = encode({"typ": "JWT", "alg": "none", "kid": signer.kid})
    attacker_jwk = {**stranger.jwk, "kid": signer.kid}
    elliptic = Signer(signer.kid, "ES256", new_key("ES256"))
    return {
        "empty": "",
        "no segments": "x",
        "two segments": f"{header}.{payload}",
        "four segments": f"{header}.{payload}.{signature}.x",
        "encrypted, five segments": ".".join([encode({"alg": "RSA-OAEP", "enc": "A256GCM"}), "a", "b", "c", "d"]),
        "alg none": f"{none}.{payload}.",
        "alg none with signature": f"{none}.{payload}.{signature}",
        "alg missing": signer.token({"alg": None}),
        "alg is a list": signer.token({"alg": ["RS256"]}),
        "alg of another case": signer.token({"alg": "rs256"}),
        "HS256 by the public PEM": hmac_token(signer.pem, str(signer.kid)),
        "HS256 by the public JWK": hmac_token(json.dumps(signer.jwk).encode(), str(signer.kid)),
        "ES256 with the kid of an RSA key": elliptic.token(),
        "ES256 claimed, RSA signature": signer.token({"alg": "ES256"}),
        "PS256 claimed, RS256 signature": signer.token({"alg": "PS256"}),
        "signed by a stranger": stranger.token(),
        "jwk header of the stranger": stranger.token({"jwk": attacker_jwk}),
        "jku header": stranger.token({"jku": "http://127.0.0.1:1/keys"}),
        "x5u header": stranger.token({"x5u": "http://127.0.0.1:1/cert"}),
        "x5c header": stranger.token({"x5c": ["MIIB"]}),
        "kid with a path": stranger.token({"kid": "../../../../dev/null"}),
        "kid with SQL": stranger.token({"kid": "' OR 1=1; DROP TABLE things; --"}),
        "kid is a number": signer.token({"kid": 1}),
        "kid is null": f"{encode({'alg': 'RS256', 'kid': None})}.{payload}.{signature}",
        "kid of 10 KB": stranger.token({"kid": "k" * 10_000}),
        "kid with NUL": stranger.token({"kid": "k\0"}),
        "crit unknown": signer.token({"crit": ["exp2"], "exp2": 1}),
        "crit b64": signer.token({"crit": ["b64"], "b64": False}),
        "crit is no list": signer.token({"crit": "exp"}),
        "b64 without crit": signer.token({"b64": False}),
        "typ of a logout token": signer.token({"typ": "logout+jwt"}),
        "typ is a number": signer.token({"typ": 1}),
        "iss missing": signer.token(iss=None),
        "iss of another issuer": signer.token(iss="https://evil.example"),
        "iss with a slash more": signer.token(iss=f"{ISSUER}/"),
        "iss is a list": signer.token(iss=[ISSUER]),
        "aud missing": signer.token(aud=None),
        "aud of another service": signer.token(aud="orders"),
        "aud is a list without us": signer.token(aud=["orders", "stock"]),
        "aud is a list with numbers": signer.token(aud=[AUDIENCE, 1]),
        "aud is an object": signer.token(aud={AUDIENCE: True}),
        "aud is empty": signer.token(aud=[]),
        "aud is a prefix": signer.token(aud="thin"),
        "exp missing": signer.token(exp=None),
        "exp is text": signer.token(exp=str(now + 86400)),
        "exp is a list": signer.token(exp=[now + 86400]),
        "exp is not a number": signer.token(exp=float("nan")),
        "exp is infinite": signer.token(exp=float("inf")),
        "expired beyond the leeway": signer.token(exp=now - 32),
        "nbf in a day": signer.token(nbf=now + 86400),
        "nbf is text": signer.token(nbf="soon"),
        "iat in a day": signer.token(iat=now + 86400),
        "sub missing": signer.token(sub=None),
        "sub is a number": signer.token(sub=7),
        "sub with NUL": signer.token(sub="a\0b"),
        "sub with a line break": signer.token(sub="a\nb"),
        "sub with a lone surrogate": signer.token(sub="\ud800"),
        "sub of 256 characters": signer.token(sub="a" * 256),
        "payload is a list": signer.sign([claims()]),
        "payload is text": signer.sign(b"hello"),
        "payload is deep": signer.sign(b"[" * 5000),
        "payload is not UTF-8": signer.sign(b'{"sub": "\xff"}'),
        "header is deep": f"{encode(b'[' * 5000)}.{payload}.{signature}",
        "header is a list": f"{encode([1])}.{payload}.{signature}",
        "signature missing": f"{header}.{payload}.",
        "signature of another payload": f"{header}.{encode(claims(sub='root'))}.{signature}",
        "signature with junk": f"{header}.{payload}.{signature}!!",
        "17 KB": signer.token(extra="x" * 12_600),
        "with spaces": f"{header}. {payload}.{signature}",
        "not ASCII": f"{header}.{payload}.é",
    }
