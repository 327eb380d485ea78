"""Commands of a container engine, and HTTP requests to its containers. Only the standard library."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

COMMAND_TIMEOUT = 120.0  # seconds
HTTP_TIMEOUT = 10.0  # seconds


class SmokeError(Exception):
    """An expectation failed."""


def run(
    *words: str, timeout: float = COMMAND_TIMEOUT, check: bool = True, variables: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a command with additional variables; return its exit code, stdout and stderr."""
    try:
        done = subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(variables or {})},
        )
    except subprocess.TimeoutExpired:
        raise SmokeError(f"{' '.join(words[:4])} took longer than {timeout:.0f} s") from None
    if check and done.returncode != 0:
        raise SmokeError(f"{' '.join(words[:4])} failed with {done.returncode}: {done.stderr or done.stdout}")
    return done.returncode, done.stdout, done.stderr


def docker(*words: str, timeout: float = COMMAND_TIMEOUT) -> str:
    """Run `docker`; return its output."""
    return run("docker", *words, timeout=timeout)[1].strip()


def inspect(name: str) -> dict[str, Any]:
    """Return the engine's description of a container or an image."""
    found: list[dict[str, Any]] = json.loads(docker("inspect", name))
    return found[0]


@dataclass
class Answer:
    """A response; a JSON body is parsed."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Client:
    """Sends requests, each on a new connection; those for operations to `OPS_PORT`."""

    port: int
    ops_port: int | None = None

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Send a request; header names are written with underscores."""
        is_operational = path.startswith(("/health/", "/metrics", "/docs", "/openapi.json"))
        port = self.ops_port if self.ops_port and is_operational else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_TIMEOUT)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        payload = None if body is None else json.dumps(body)
        if payload is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, payload, sent)
            response = connection.getresponse()
            text = response.read().decode()
            fields = {name.lower(): value for name, value in response.getheaders()}
            is_json = "json" in fields.get("content-type", "")
            return Answer(response.status, fields, json.loads(text) if is_json and text else text)
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()


def wait_for(true: Callable[[], bool], what: str, seconds: float) -> float:
    """Wait for a condition; return how long it took."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > seconds:
            raise SmokeError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - started


def expect(true: object, what: str) -> None:
    """Raise unless a condition holds."""
    if not true:
        raise SmokeError(what)
