"""Starts the real thing, gunicorn with its workers, and talks to it over real sockets."""
# ruff: noqa: D102 - the names say it

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.server.metrics_dir import memory_dir

ROOT = Path(__file__).parents[2]
APP = "tests.server.asgi_app:app"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


class Connection:
    """One HTTP/1.1 connection that never retries, unlike `http.client`'s users."""

    def __init__(self, port: int, timeout: float = 15.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, path: str) -> None:
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status_line = self._file.readline()
        if not status_line:
            raise ConnectionError("closed without an answer")
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers.get("content-length", "0")))
        return int(status_line.split()[1]), headers, body

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.ask(path)
        return self.answer()

    def closed(self) -> bool:
        """Wait for the server to close."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Service:
    """A running gunicorn."""

    def __init__(self, *, app: str = APP, command: tuple[str, ...] = ("app.server",), **env: Any) -> None:
        port = str(env.get("PORT", ""))
        self.port = int(port) if port.isdecimal() else free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE_")},
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
            "HOST": "127.0.0.1",
            "PORT": port or str(self.port),
            "WEB_CONCURRENCY": "1",
            "DRAIN_SECONDS": "0",
            "SHUTDOWN_TIMEOUT": "2",
            **{name: str(value) for name, value in env.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command, app],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._connections: list[Connection] = []
        self.lines: list[bytes] = []
        self.errors: list[bytes] = []
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[bytes]) -> None:
        with stream:
            for line in stream:
                lines.append(line)  # noqa: PERF402 - must be seen as they come

    def wait_ready(self) -> "Service":
        eventually(lambda: self.process.poll() is not None or self._answers())
        assert self.process.poll() is None, self.lines
        return self

    def _answers(self) -> bool:
        try:
            return self.get("/pid")[0] == 200
        except OSError:
            return False

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        listing = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in listing.split()]

    def connect(self) -> Connection:
        self._connections.append(Connection(self.port))
        return self._connections[-1]

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        connection = Connection(self.port)
        try:
            return connection.get(path)
        finally:
            connection.close()

    def worker(self) -> tuple[int, str]:
        state = json.loads(self.get("/pid")[2])
        return state["pid"], state["slot"]

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 15.0) -> int:
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(5)
        return code

    def stop(self) -> int:
        """End it by SIGTERM; at once, group and all, when that does not help."""
        for connection in self._connections:
            connection.close()
        if self.process.poll() is None:
            self.signal()
        try:
            return self.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.lines]

    def assert_only_json(self) -> None:
        """Every line is one JSON object on stdout, and nothing is plain."""
        assert self.errors == []
        for line in self.lines:
            record = json.loads(line)
            assert {"timestamp", "level", "logger", "message", "service"} <= record.keys()

    def metrics_dir(self) -> Path:
        return next(memory_dir().glob(f"service-metrics-{self.pid}-*"))


class Load:
    """Clients that ask again and again, and count what they get; none of them retries."""

    def __init__(self, service: Service, *, clients: int = 5, keep_alive: bool = True, path: str = "/pid") -> None:
        self.outcomes: Counter[str] = Counter()
        self._service, self._keep_alive, self._path = service, keep_alive, path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _client(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            try:
                connection = connection or Connection(self._service.port)
                status, headers, _ = connection.get(self._path)
                self.outcomes[str(status)] += 1
                last = not self._keep_alive or headers.get("connection") == "close"
            except (OSError, ValueError) as error:
                self.outcomes[type(error).__name__] += 1
                last = True
            if last and connection is not None:
                connection.close()
                connection = None
            time.sleep(0.02)
        if connection is not None:
            connection.close()

    def stop(self) -> Counter[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
        return self.outcomes
