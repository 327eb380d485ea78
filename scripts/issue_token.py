"""A bearer token for local development, signed by a key of this clone. `scripts/token` execs this."""

import argparse
import json
import os
import secrets
import sys
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".data" / "token"
KEY, KEYS = DATA / "private.pem", DATA / "keys.json"
ISSUER, AUDIENCE, KEY_ID = "http://localhost/development", "development", "development"


def private_key() -> ec.EllipticCurvePrivateKey:
    """Read the key of this clone; the first call makes it."""
    if not KEY.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        whole = KEY.with_suffix(f".{secrets.token_hex(4)}")
        with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        whole.rename(KEY)
    key = load_pem_private_key(KEY.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        sys.exit(f"token: {KEY} is not a key that this script made; remove it")
    return key


def settings(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Write the public key beside the private one, and return the settings that accept its tokens."""
    jwk = {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": KEY_ID, "use": "sig", "alg": "ES256"}
    KEYS.write_text(json.dumps({"keys": [jwk]}))
    return {"AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": AUDIENCE, "AUTH_JWKS_FILE": str(KEYS)}


def every_scope(accepting: dict[str, str]) -> list[str]:
    """List the scopes that the operations of the service need, with authentication on."""
    os.environ.update(accepting, DATABASE_URL="postgresql://127.0.0.1/service")  # it is not used
    sys.path.insert(0, str(ROOT))
    from app.main import app  # noqa: PLC0415 - needs the settings and the path

    operations = [operation for path in app.openapi()["paths"].values() for operation in path.values()]
    needs = [need for operation in operations for need in operation.get("security", ())]
    return sorted({scope for need in needs for scopes in need.values() for scope in scopes})


def main() -> None:
    """Print the token, or the settings."""
    parser = argparse.ArgumentParser(prog="scripts/token", description=__doc__)
    parser.add_argument(
        "--scope", action="append", help="a scope; may be repeated; default: every scope of the service"
    )
    parser.add_argument("--subject", default="developer", help="the caller (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3600, help="how long the token is valid (%(default)s)")
    parser.add_argument("--settings", action="store_true", help="print only the settings")
    arguments = parser.parse_args()
    key = private_key()
    accepting = settings(key)
    lines = "\n".join(f"{name}={value}" for name, value in accepting.items())
    print(lines, file=None if arguments.settings else sys.stderr)
    if arguments.settings:
        return
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": arguments.subject,
        "client_id": arguments.subject,
        "iat": now,
        "exp": now + arguments.seconds,
        "jti": secrets.token_hex(8),
        "scope": " ".join(arguments.scope or every_scope(accepting)),
    }
    print(jwt.encode(claims, key, "ES256", {"typ": "at+jwt", "kid": KEY_ID}))


if __name__ == "__main__":
    main()
