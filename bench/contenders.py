"""The service and its peers: how each is started, and the cursor of its deep page."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.machine import Memory, cpu_seconds, memory, tree

ROOT = Path(__file__).resolve().parents[1]
_NODE = ROOT / "bench" / "peers" / "fastify"
_START_SECONDS = 30.0
_LARGEST_PAGE = 100
_STOP_SECONDS = 20.0
CHOICES = ("session", "alone")  # workloads that only `bench.choices` has routes for


@dataclass(frozen=True)
class Contender:
    """A service that can be measured.

    Attributes
    ----------
    name
        In the report.
    command
        What is started, in `folder`.
    cursor
        Makes the cursor of the page after an id; without it, the pages up to there are read.
    environment
        Its variables beside `DATABASE_URL`, `PORT` and `WEB_CONCURRENCY`.
    has_database
        Whether it stores anything; the floor does not.
    token
        Sent with every request, if there is one.
    workloads
        Those that it is measured in; by default all but `CHOICES`.
    """

    name: str
    command: tuple[str, ...]
    cursor: Callable[[int], str] | None
    folder: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    has_database: bool = True
    token: str = ""
    workloads: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """Header fields of every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def _their_cursor(item_id: int) -> str:
    return base64.urlsafe_b64encode(str(item_id).encode()).rstrip(b"=").decode()


def ours(name: str = "ours", folder: Path = ROOT) -> Contender:
    """Describe our service; another checkout of it uses its own environment, if it has one."""
    python = folder / ".venv" / "bin" / "python"
    command = (str(python) if folder != ROOT and python.exists() else sys.executable, "-m", "app.server")
    return Contender(name, command, None, folder, {"HOST": "127.0.0.1", "DRAIN_SECONDS": "0"})


def ours_with_token() -> Contender:
    """Describe our service with authentication on."""

    def issued(*words: str) -> str:
        command = [sys.executable, "scripts/issue_token.py", *words]
        return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout  # noqa: S603

    settings = dict(line.split("=", 1) for line in issued("--settings").splitlines())
    plain, token = ours("token"), issued("--seconds", "86400").strip()
    return replace(plain, environment={**plain.environment, **settings}, token=token, workloads=("get",))


def _python_peer(name: str, module: str, *, has_database: bool = True) -> Contender:
    words = ("-m", "gunicorn", "-c", os.devnull, "-k", "uvicorn_worker.UvicornWorker", "--keep-alive", "75")
    command = (sys.executable, *words, f"bench.peers.{module}:app")
    return Contender(name, command, _their_cursor, has_database=has_database)


def peers(folder: Path) -> dict[str, Contender]:
    """List the peers; what Node needs is installed in `folder`."""
    node, plain = folder / "fastify", ours("choices")
    return {
        "usual": _python_peer("usual", "usual"),
        "asyncpg": _python_peer("asyncpg", "raw"),
        "fastify": Contender("fastify", ("node", "server.js"), _their_cursor, node, {"METRICS_PORT": "0"}),
        "floor": _python_peer("floor", "floor", has_database=False),
        "choices": replace(plain, command=(*plain.command, "bench.choices:app"), workloads=CHOICES),
    }


def install_fastify(folder: Path) -> None:
    """Install Fastify beside a copy of the server, from the lock file, unless that is done."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_NODE / "server.js", folder)
    lock = _NODE / "package-lock.json"
    installed = folder / "installed.json"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_NODE / name, folder)
    words = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(words, check=True, cwd=folder, stdout=sys.stderr, timeout=300)  # noqa: S603
    shutil.copy(lock, installed)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Running:
    """A running service.

    Attributes
    ----------
    contender
        Its description.
    url
        Where it listens.
    ready_seconds
        From its start to its first successful response.
    """

    def __init__(self, contender: Contender, database_url: str, workers: int, folder: Path) -> None:
        port = _free_port()
        self.contender, self.url = contender, f"http://127.0.0.1:{port}"
        self._metrics = folder / f"metrics-{port}"
        self._metrics.mkdir()
        self._log = folder / f"{contender.name}-{port}.log"
        self._cursors = {0: ""}
        self._begin: Callable[[], subprocess.Popen[bytes]] = lambda: self._start(contender, database_url, workers, port)
        self._run()

    def _run(self) -> None:
        started = time.monotonic()
        self._process = self._begin()
        self._wait_until_ready(started + _START_SECONDS)
        self.ready_seconds = time.monotonic() - started

    def restart(self) -> None:
        """Restart a service that does not answer."""
        self.stop()
        self._metrics.mkdir()
        self._run()

    def _start(self, contender: Contender, database_url: str, workers: int, port: int) -> subprocess.Popen[bytes]:
        variables = {
            "PATH": os.environ.get("PATH", ""),
            "DATABASE_URL": database_url,
            "PORT": str(port),
            "WEB_CONCURRENCY": str(workers),
            **contender.environment,
        }
        command = contender.command
        if "bench.peers" in command[-1]:
            command = (*command, "-b", f"127.0.0.1:{port}", "-w", str(workers))
            variables["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics)
        with self._log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603
                command,
                cwd=contender.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_until_ready(self, deadline: float) -> None:
        path = "/health/ready" if "app.server" in self.contender.command else "/health/live"
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url + path, timeout=2).close()  # noqa: S310 - our own
                return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"{self.contender.name} does not start:\n{self._log.read_text()[-2000:]}")

    def cpu_seconds(self) -> float:
        """Sum the CPU time of its processes so far."""
        return cpu_seconds(self._process.pid)

    def worker_memory(self) -> list[Memory]:
        """Measure its workers."""
        return [memory(pid) for pid in tree(self._process.pid)[1:]]

    def cursor_after(self, item_id: int) -> str:
        """Return the cursor of the page after the item with this id; ids have no gaps."""
        if item_id not in self._cursors:
            make = self.contender.cursor
            self._cursors[item_id] = make(item_id) if make else self._walk(item_id)
        return self._cursors[item_id]

    def _walk(self, item_id: int) -> str:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=10)
        at = max(known for known in self._cursors if known < item_id)
        cursor = self._cursors[at]
        with contextlib.closing(connection):
            while at < item_id:
                step = min(item_id - at, _LARGEST_PAGE)
                connection.request(
                    "GET",
                    f"/items?limit={step}" + (f"&cursor={cursor}" if cursor else ""),
                    headers=self.contender.headers,
                )
                cursor = json.loads(connection.getresponse().read())["next_cursor"]
                at += step
        return cursor

    def forget_log(self) -> None:
        """Truncate its log, to which it continues to write."""
        os.truncate(self._log, 0)

    def stop(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._metrics, ignore_errors=True)


@contextlib.contextmanager
def running(contender: Contender, database_url: str, workers: int, folder: Path) -> Iterator[Running]:
    """Run a service during the block."""
    service = Running(contender, database_url, workers, folder)
    try:
        yield service
    finally:
        service.stop()
