"""`scripts/token`: a token for development, and the settings with which a service accepts it."""

import re
import subprocess
import sys
from pathlib import Path

import jwt

from tests.conftest import StartService
from tests.support.service import ROOT, environment


def token(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "scripts/issue_token.py", *words],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env=environment(),
        text=True,
        timeout=300,
    )


def test_a_service_with_its_settings_accepts_its_tokens(start_service: StartService) -> None:
    settings = dict(line.split("=", 1) for line in token("--settings").stdout.splitlines())
    service = start_service(**settings)
    made = token("--scope", "things:write", "--subject", "me")

    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    assert service.client.post("/things", json={"name": "Lamp", "price": 1}, headers=headers).status_code == 201
    assert service.client.get("/things", headers=headers).status_code == 403
    assert made.stderr.splitlines() == [f"{name}={value}" for name, value in settings.items()]


def test_without_a_scope_a_token_has_every_scope_of_the_service() -> None:
    routers = "".join(file.read_text() for file in (ROOT / "app").glob("*/router.py"))
    needed = {f"{name}:{access}" for name in re.findall(r'scopes="(\w+)"', routers) for access in ("read", "write")}

    claims = jwt.decode(token().stdout.strip(), options={"verify_signature": False})

    assert set(claims["scope"].split()) >= needed


def test_the_key_is_made_once_and_is_private() -> None:
    token()
    key = ROOT / ".data" / "token" / "private.pem"
    before = key.read_bytes()

    token()

    assert key.read_bytes() == before
    assert key.stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in Path(token("--settings").stdout.split("AUTH_JWKS_FILE=")[1].strip()).read_text()
