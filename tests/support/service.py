"""The real thing: gunicorn and its workers as processes of their own, watched from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[2]
_GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "python:app.server.gunicorn_conf", "app.main:app"]
# Of this process's environment the service gets only what Python itself and coverage need.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")


def eventually(condition: Callable[[], Any], seconds: float = 10.0, *, pause: float = 0.05) -> Any:
    """Wait until `condition()` is true, and return it; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(pause)
    return value


def free_port() -> int:
    """Find a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment(**variables: str) -> dict[str, str]:
    """Make the environment of a process of the service: nothing from outside but `variables`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}


class Service:
    """One running service.

    Parameters
    ----------
    folder
        Where it runs and logs: not the repository, whose `.env` is the developer's.
    variables
        Its environment.

    Attributes
    ----------
    command
        What is started.
    """

    command: Sequence[str] = _GUNICORN

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.port = int(variables.setdefault("PORT", str(free_port())))
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"service-{self.port}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.client = httpx2.Client(base_url=self.url, timeout=15, trust_env=False)

    def wait_until_alive(self) -> None:
        """Wait for the first answer."""

        def alive() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return self.client.get("/health/live").status_code == 200
            except httpx2.TransportError:
                return False

        eventually(alive, 30)

    def wait_for_workers(self, number: int) -> list[int]:
        """Wait until so many workers serve, and return their process ids."""
        eventually(lambda: len(self.workers()) == number, 20)
        # `shared_state` says it to the service itself; from outside, the line of each worker's server does.
        eventually(lambda: self._booted() >= set(self.workers()), 20)
        return self.workers()

    def _booted(self) -> set[int]:
        started = "Started server process ["
        return {int(m.removeprefix(started).rstrip("]")) for m in self.messages() if m.startswith(started)}

    def workers(self) -> list[int]:
        """List the process ids of the workers."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in children.split()]

    def lines(self) -> list[dict[str, Any]]:
        """Read the log so far; each line of it is a JSON object, or this fails."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def messages(self) -> list[str]:
        """Read the messages of the log so far."""
        return [line["message"] for line in self.lines()]

    def lines_of(self, trace_id: str) -> list[dict[str, Any]]:
        """Read the lines of one request."""
        return [line for line in self.lines() if line.get("trace_id") == trace_id]

    def raw(self, request: bytes, seconds: float = 10.0) -> bytes:
        """Send bytes as they are, and return whatever comes until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(request)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def stop(self, seconds: float = 20.0) -> int:
        """End it as Kubernetes does, and return its exit code; whoever is left after `seconds` is killed."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(5)
            raise
