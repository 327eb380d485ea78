"""Run the service and what it needs: a database, its schema, gunicorn. `scripts/run` execs this.

Without a `DATABASE_URL` in the environment or `.env` it starts an embedded PostgreSQL, see
`postgres.py`. SIGTERM and Ctrl-C stop everything gracefully; a second Ctrl-C does so at once.

    scripts/run --reload    for development: one worker, new code at once, readable logs on a terminal
    scripts/run --demo      with some data to look at
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import postgres
from lib.database_url import given
from lib.loopback import ask
from lib.schema import is_current
from lib.watcher import Watcher

ROOT = Path(__file__).resolve().parents[1]
MIGRATE = [sys.executable, "-m", "scripts.lib.migrate"]
GUNICORN = [sys.executable, "-m", "app.server"]
DEMO = ROOT / "scripts" / "lib" / "demo.py"
MIGRATION_TIMEOUT = 1800.0  # seconds, for one try; each statement has its own, shorter timeout
MIGRATION_PAUSE = 3.0  # seconds between two attempts
STOP_MARGIN = 30.0  # seconds beyond the service's own timeouts, after which it is killed
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Service:
    """gunicorn in its own process group, and the signals for it."""

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.watcher = watcher
        self.outdated = False  # the running code is older than the files
        self.stop_timeout = STOP_MARGIN  # seconds
        self.has_terminal = os.isatty(0)  # checked now, since a terminal that has hung up is no longer one
        self.process: subprocess.Popen[bytes] | None = None
        self.deadline: float | None = None  # from the first signal to stop on
        self.failed = threading.Event()  # a migration is wrong, so the code must not be served
        self.ended = threading.Event()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on; exit if there is no service yet."""
        if number == signal.SIGHUP and self.has_terminal:
            number = signal.SIGTERM  # the terminal has hung up; otherwise SIGHUP means "reload"
        if number != signal.SIGHUP and self.deadline is None:
            self.deadline = time.monotonic() + self.stop_timeout
            if self.process is None:
                sys.exit(0)
        if self.process and not self.ended.is_set():
            self.process.send_signal(number)

    def watch_signals(self) -> None:
        """Handle the signals; one that the caller ignores (nohup) stays ignored."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_signal)

    def run(self) -> int:
        """Serve until gunicorn exits; with `--reload`, after a change serve again. Return an exit code."""
        try:
            code = self.serve()
            while self.watcher and (self.outdated or code) and not (self.deadline or self.failed.is_set()):
                if not self.outdated:
                    print("run: waiting for a change", file=sys.stderr)
                    self.watcher.wait()
                self.outdated = False
                code = self.serve()
        finally:
            self.ended.set()
        return code

    def serve(self) -> int:
        """Run one gunicorn until it exits."""
        process = self.process = start(GUNICORN)
        try:
            while process.poll() is None:
                if self.deadline and time.monotonic() > self.deadline:
                    process.kill()
                if self.watcher and self.watcher.changed():
                    # Not SIGHUP: if the new code cannot be loaded, the old worker would continue with the old code.
                    self.outdated = True
                    process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)
        finally:
            self.process = None if self.watcher and not self.deadline else process
            # The workers of a gunicorn that was killed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.returncode
        if self.failed.is_set():
            return 1
        if self.deadline and code in {-signal.SIGTERM, -signal.SIGINT}:
            return 0  # stopped before it handled signals
        return code if code >= 0 else 128 - code

    def migrate_later(self) -> None:
        """Retry the migration while serving: the service is alive without its database."""
        while not self.ended.wait(MIGRATION_PAUSE):
            code = migrate()
            if code == 0:
                return
            if code != os.EX_TEMPFAIL:
                self.failed.set()
                if self.process and not self.ended.is_set():
                    self.process.terminate()
                return


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process that Ctrl-C does not reach, and that ends with this one."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    parent = os.getpid()

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
        if libc:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 - only the main thread runs when it matters
    )


def migrate() -> int:
    """Migrate once; return 0, `EX_TEMPFAIL`, or 1 if a migration is wrong."""
    try:
        return subprocess.run(
            MIGRATE, check=False, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=MIGRATION_TIMEOUT
        ).returncode
    except subprocess.TimeoutExpired:
        return os.EX_TEMPFAIL


def check_settings() -> float:
    """Reject an invalid configuration at once; return the timeout of a stop, in seconds."""
    from app.core.config import load_settings  # noqa: PLC0415 - needs the path that `main` sets

    embedded = given() is None
    if embedded:
        os.environ["DATABASE_URL"] = "postgresql://127.0.0.1/service"
    settings = load_settings()
    if embedded:
        del os.environ["DATABASE_URL"]
    return settings.drain_seconds + settings.shutdown_timeout


def develop() -> Watcher:
    """Set defaults for development, unless the environment sets them."""
    for name, value in (
        ("ENVIRONMENT", "development"),
        ("WEB_CONCURRENCY", "1"),
        ("DRAIN_SECONDS", "0"),
        ("SHUTDOWN_TIMEOUT", "2"),
    ):
        os.environ.setdefault(name, value)
    return Watcher(ROOT / "app")


def main() -> int:
    """Start everything, serve, and stop everything."""
    os.chdir(ROOT)  # for .env
    sys.path.insert(0, str(ROOT))
    service = Service(develop() if "--reload" in sys.argv[1:] else None)
    service.watch_signals()
    service.stop_timeout += check_settings()
    if sys.stderr.isatty() or "--demo" in sys.argv[1:]:
        threading.Thread(target=welcome, args=[service], daemon=True).start()
    if given() is not None:
        return serve_with_given(service)
    say("starting PostgreSQL; its data is in .data/postgres")
    with postgres.running(postgres.DATA) as url:
        os.environ["DATABASE_URL"] = url
        return serve_with_embedded(service, url)


def say(message: str) -> None:
    """Print to the terminal (stderr); stdout is for the log, one JSON object in each line."""
    if sys.stderr.isatty():
        print(f"run: {message}", file=sys.stderr, flush=True)


def welcome(service: Service) -> None:
    """Print the addresses as soon as the service answers."""
    from app.core.config import load_settings  # noqa: PLC0415 - needs the path that `main` sets

    settings = load_settings()
    url = f"http://localhost:{settings.port}"
    operations = f"http://localhost:{settings.ops_port}" if settings.ops_port else url
    while not is_alive(operations):
        if service.ended.wait(0.2):
            return
    if "--demo" in sys.argv[1:]:
        demonstrate(url)
    say(f"the API is at {url}, its documentation at {operations}/docs, metrics at {operations}/metrics")
    say("Ctrl-C stops it")


def demonstrate(url: str) -> None:
    """Fill in some data, by the module that says which."""
    if DEMO.exists():
        subprocess.run([sys.executable, "-m", "lib.demo", url], cwd=ROOT / "scripts", check=False, stdout=sys.stderr)
    else:
        print(f"run: no demo data, since {DEMO.relative_to(ROOT)} is not there", file=sys.stderr)


def is_alive(url: str) -> bool:
    """Return whether the service answers."""
    try:
        with ask(f"{url}/health/live", 2):
            return True
    except OSError:
        return False


def serve_with_given(service: Service) -> int:
    """Serve on the given database, which may be unavailable for now: the service recovers by itself."""
    code = migrate()
    if code == os.EX_TEMPFAIL:
        threading.Thread(target=service.migrate_later, daemon=True).start()
    elif code != 0:
        return 1
    return service.run()


def serve_with_embedded(service: Service, url: str) -> int:
    """Serve on the embedded database."""
    if not is_current(url, ROOT / "alembic" / "versions") and migrate() != 0:
        return 1
    return service.run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except postgres.PostgresError as error:
        sys.exit(f"run: {error}")
