"""A running service: gunicorn and its workers as processes of their own, watched from outside."""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import httpx2

from app.server.metrics_dir import memory_dir
from tests.support.http import Answer, Connection

ROOT = Path(__file__).resolve().parents[2]
# Of this process's environment the service gets only what Python itself and coverage need.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
# Below the ports that Linux gives to outgoing connections: none of these takes a port before the service does.
_FIRST_PORT, _PORTS = 10_000, 22_768
_LAST_GIVEN = Path(tempfile.gettempdir(), f"service-tests-{os.getuid()}.port")
"""Holds the port that `free_port` gave last, in any process."""
_PATIENCE = 120.0
"""Seconds that a machine may need that is ten times slower, or busy with something else."""
SAMPLE = "tests.sample.app:app"
"""What is served where a test asks for nothing else."""


def eventually(
    condition: Callable[[], Any],
    seconds: float = _PATIENCE,
    *,
    pause: float = 0.05,
    seen: Callable[[], object] | None = None,
) -> Any:
    """Wait until `condition()` is true, and return it; fail after `seconds`, and say what `seen()` returns."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds} s; seen: {seen() if seen else value!r}")
        time.sleep(pause)
    return value


def free_port() -> int:
    """Find a port of the loopback interface on which nothing listens, and that no other test is given meanwhile."""
    while True:
        port = _next_port()
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def _next_port() -> int:
    """Count up, for all processes together: tests beside each other would now and then choose the same at random."""
    with _LAST_GIVEN.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = int(file.read() or secrets.randbelow(_PORTS))
        file.truncate(0)
        file.write(str(last + 1))
    return _FIRST_PORT + last % _PORTS


def environment(**variables: str) -> dict[str, str]:
    """Make the environment of a process of the service: nothing from outside but `variables`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}


class Service:
    """One running service, started as `scripts/run` starts it.

    Parameters
    ----------
    folder
        Where it runs and logs: not the repository, whose `.env` is the developer's.
    variables
        Its environment. `PORT` may be left out.
    app
        The application that it serves.
    command
        The module that Python runs, and its arguments.
    """

    def __init__(
        self,
        folder: Path,
        variables: dict[str, str],
        *,
        app: str = SAMPLE,
        command: tuple[str, ...] = ("app.server",),
    ) -> None:
        variables = {"HOST": "127.0.0.1", "PORT": str(free_port()), **variables}
        self.port = int(variables["PORT"]) if variables["PORT"].isdecimal() else 0
        self.url = f"http://127.0.0.1:{self.port}"
        self.operations_url = f"http://127.0.0.1:{variables.get('OPS_PORT', self.port)}"
        self.log = folder / f"service-{self.port}.log"
        self._errors = self.log.with_suffix(".err")
        with contextlib.suppress(FileExistsError):
            (folder / "gunicorn.conf.py").symlink_to(ROOT / "gunicorn.conf.py")
        with self.log.open("ab") as out, self._errors.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, app],
                cwd=folder,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=self._stdout(out),
                stderr=err,
                start_new_session=True,
            )
        self.client = httpx2.Client(base_url=self.url, timeout=_PATIENCE, trust_env=False)
        self._connections: list[Connection] = []

    @property
    def pid(self) -> int:
        """The process id of the master."""
        return self.process.pid

    def _stdout(self, log: IO[bytes]) -> IO[bytes] | int:
        """Choose what the service has as stdout."""
        return log

    # Starting

    def wait_until_alive(self) -> "Service":
        """Wait for the first answer."""
        eventually(self._alive, seen=self.output)
        return self

    def _alive(self) -> bool:
        assert self.process.poll() is None, self.output()
        try:
            return self.client.get(f"{self.operations_url}/health/live").status_code == 200
        except httpx2.TransportError:
            return False

    def wait_for_workers(self, number: int) -> list[int]:
        """Wait until so many workers serve, and return their process ids."""
        # `shared_state` says it to the service itself; from outside, the line of each worker's server does.
        eventually(
            lambda: len(self.workers()) == number and self._booted() >= set(self.workers()),
            seen=lambda: (self.workers(), self.output()),
        )
        return self.workers()

    def _booted(self) -> set[int]:
        started = "Started server process ["
        return {int(m.removeprefix(started).rstrip("]")) for m in self.messages() if m.startswith(started)}

    def workers(self) -> list[int]:
        """List the process ids of the workers."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in children.split()]

    # What it writes

    def output(self) -> str:
        """Read everything that it wrote so far, stdout first."""
        return self.log.read_text() + self._errors.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """Read the log so far: each line is one JSON object on stdout, and stderr is empty, or this fails."""
        assert self._errors.read_text() == ""
        complete, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in complete.splitlines()]

    def messages(self) -> list[str]:
        """Read the messages of the log so far."""
        return [line["message"] for line in self.lines()]

    def lines_of(self, trace_id: str) -> list[dict[str, Any]]:
        """Read the lines of one request."""
        return [line for line in self.lines() if line.get("trace_id") == trace_id]

    def assert_only_json(self) -> None:
        """Check that every line has the fields of a log line, and that nothing else was written."""
        for line in self.lines():
            assert {"timestamp", "level", "logger", "message", "service"} <= line.keys(), line

    def logged(self, trace_id: str) -> list[dict[str, Any]]:
        """Wait for the access line of a request, which is its last, and return its lines."""

        def lines() -> list[dict[str, Any]]:
            seen = self.lines_of(trace_id)
            return seen if seen and seen[-1]["logger"] == "app.access" else []

        found: list[dict[str, Any]] = eventually(lines, seen=lambda: self.lines_of(trace_id))
        return found

    def metrics_dir(self) -> Path:
        """Find the folder in which its workers keep their metrics."""
        return next(memory_dir().glob(f"service-metrics-{self.pid}-*"))

    # Asking

    def connect(self) -> Connection:
        """Open a connection, which ends with the service at the latest."""
        self._connections.append(Connection(self.port))
        return self._connections[-1]

    def get(self, path: str) -> Answer:
        """Send a GET request on a connection of its own."""
        with Connection(self.port) as connection:
            return connection.get(path)

    def raw(self, request: bytes, seconds: float = _PATIENCE) -> bytes:
        """Send bytes as they are, and return all that comes until the connection is closed."""
        with Connection(self.port, seconds) as connection:
            connection.send(request)
            return connection.rest()

    # Ending

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def wait(self, seconds: float = _PATIENCE) -> int:
        """Wait for its end, and return its exit code."""
        return self.process.wait(seconds)

    def stop(self, seconds: float = _PATIENCE) -> int:
        """End it as Kubernetes does, and return its exit code; what is left of it after `seconds` is killed."""
        self.client.close()
        for connection in self._connections:
            connection.close()
        if self.process.poll() is None:
            self.signal()
        try:
            return self.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(_PATIENCE)
