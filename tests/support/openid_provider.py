"""A real OpenID provider: npm's `oidc-provider`, certified by the OpenID Foundation, in a process of its own."""

import subprocess
from pathlib import Path

import httpx2

from tests.support import npm
from tests.support.service import environment, eventually, free_port

_SOURCE = Path(__file__).parent / "provider"


class OpenIDProvider:
    """The provider, on a port that it keeps when it is started again.

    Attributes
    ----------
    issuer
        What its tokens have as `iss`.
    """

    def __init__(self, folder: Path) -> None:
        self._installed = npm.install(_SOURCE)
        self._folder = folder
        self._port = free_port()
        self.issuer = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "provider.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["node", "provider.js", str(self._port), str(self._folder / "provider-keys.json")],
                cwd=self._installed,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._read_line()
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.issuer}/jwks", trust_env=False, timeout=60).status_code == 200
        except httpx2.TransportError:
            return False

    def _read_line(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # the library prints notices as well
            if line.startswith(b"signs with "):
                return
        raise AssertionError((self._folder / "provider.log").read_text())

    def rotate(self) -> None:
        """Sign with a new key from now on; the former one is still published."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"rotate\n")
        self._process.stdin.flush()
        self._read_line()

    def stop(self) -> None:
        """End it; its keys stay."""
        self._process.kill()
        self._process.communicate(timeout=60)

    def token(self, scope: str, *, client: str = "alice", audience: str = "https://items.example") -> str:
        """Get an access token by the client credentials grant (RFC 6749, section 4.4; RFC 8707)."""
        answer = httpx2.post(
            f"{self.issuer}/token",
            data={"grant_type": "client_credentials", "scope": scope, "resource": audience},
            auth=(client, f"{client}-secret"),
            trust_env=False,
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token
