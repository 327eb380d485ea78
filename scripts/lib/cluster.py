"""One data folder and its server: create, start, find, stop."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lib import account, binaries, roles
from lib.binaries import PostgresError

INITDB_TIMEOUT = 120.0  # seconds
START_TIMEOUT = 120.0  # seconds; recovery after a crash is part of it
# A fast shutdown, then an immediate one (without a checkpoint), then SIGKILL.
STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
LOG_LIMIT = 16 * 1024 * 1024  # bytes; checked at each start

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # TCP only, since the path of a socket may be too long
    "max_connections": "200",
}
# For data that need not survive a power failure.
THROW_AWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Running:
    """A running server."""

    pid: int
    port: int
    ready: bool


@dataclass(frozen=True)
class Cluster:
    """A folder that holds a cluster, its passwords, its log and its locks."""

    data: Path
    durable: bool = True

    @property
    def pgdata(self) -> Path:
        """PostgreSQL's own folder, which exists only when it is complete."""
        return self.data / "cluster"

    @property
    def log(self) -> Path:
        """The log of the server and of its keeper."""
        return self.data / "log"

    @property
    def paused(self) -> Path:
        """The file that exists while the server is paused."""
        return self.data / "paused"

    @property
    def former_password(self) -> Path:
        """The superuser's password in a folder of an earlier release, whose roles and database had other names."""
        return self.data / "password"

    @property
    def password(self) -> Path:
        """The superuser's password."""
        return self.data / "superuser-password"

    @property
    def service_password(self) -> Path:
        """The password of the service's role, which exists when that role does."""
        return self.data / "service-password"

    def url(self, port: int) -> str:
        """Return the URL for the service."""
        database = roles.FORMER if self.former_password.exists() else roles.DATABASE
        return roles.url(roles.SERVICE, self.service_password, port, database)

    def superuser_url(self, port: int) -> str:
        """Return the URL for what only a superuser may do."""
        if self.former_password.exists():
            return roles.url(roles.FORMER, self.former_password, port, roles.FORMER)
        return roles.url(roles.SUPERUSER, self.password, port, roles.DATABASE)

    def major(self) -> int | None:
        """Return the major version that created the data."""
        try:
            return int((self.pgdata / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def running(self) -> Running | None:
        """Return the running server, if there is one.

        `postmaster.pid` remains after a server was killed, and its process id may have been reused: the command line
        decides.
        """
        try:
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
            port = int(lines[3]) if len(lines) > 3 else 0
        except (FileNotFoundError, ValueError, IndexError):
            return None
        if f"-D {self.pgdata} -c" not in command_line(pid):
            return None
        return Running(pid, port, ready=lines[-1].strip() == "ready")

    def create(self) -> None:
        """Create the cluster in a temporary folder and rename it, so that it is never incomplete."""
        if self.pgdata.exists():
            return
        new = self.data / "cluster.new"
        shutil.rmtree(new, ignore_errors=True)
        for password in (self.former_password, self.service_password):
            password.unlink(missing_ok=True)
        account.choose(self.data, binaries.choose(None))  # gives it the folder, so that it can read the password
        roles.write_password(self.password)
        options = ["--encoding=UTF8", "--no-locale", "--data-checksums", "--auth=scram-sha-256"]
        options += [f"--username={roles.SUPERUSER}", f"--pwfile={self.password}"] + ["--no-sync"] * (not self.durable)
        self.execute("initdb", *options, f"--pgdata={new}")
        self.execute("postgres", "--single", "-D", new, "postgres", text=f"CREATE DATABASE {roles.DATABASE}\n")
        new.rename(self.pgdata)

    def start(self, port: int = 0) -> subprocess.Popen[bytes]:
        """Start the server without waiting for it, on this port, or else on its former one if that is free."""
        self.forget_stale_pid()
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.rename(self.log.with_name("log.old"))
        settings = {**SETTINGS, "port": str(port or self.pick_port())} | ({} if self.durable else THROW_AWAY)
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self.popen("postgres", "-D", self.pgdata, *words)

    def forget_stale_pid(self) -> None:
        """Remove the id of a process that is not PostgreSQL, or an empty file: both would prevent a start.

        The id of a process that has ended stays: PostgreSQL needs the file to find the shared memory of a server that
        was killed, whose children may still be writing.
        """
        file = self.pgdata / "postmaster.pid"
        if file.exists() and not self.running():
            pid = file.read_text().partition("\n")[0]
            if not pid or (pid.isdigit() and command_line(int(pid))):
                file.unlink()

    def pick_port(self) -> int:
        """Prefer the former port, so that URLs stay valid."""
        file = self.data / "port"
        text = file.read_text() if file.exists() else ""
        last = int(text) if text.isdigit() else 0  # nothing where the disk was full
        for wanted in (last, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", wanted))
                except OSError:
                    continue
                port: int = probe.getsockname()[1]
                if port != last:
                    file.write_text(str(port))
                return port
        raise PostgresError("no port of 127.0.0.1 is free")

    def stop(self) -> None:
        """Stop the server, whichever process started it; every wait has a timeout."""
        for step, patience in STOP_STEPS:
            server = self.running()
            if server is None:
                return
            os.kill(server.pid, step)
            deadline = time.monotonic() + patience
            while self.running() and time.monotonic() < deadline:
                time.sleep(0.02)

    def execute(self, name: str, *words: str | Path, text: str = "") -> None:
        """Run one of PostgreSQL's commands to its end."""
        process = self.popen(name, *words, stdin=subprocess.PIPE)
        try:
            process.communicate(text.encode(), timeout=INITDB_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise PostgresError(f"{name} failed, see {self.log}")

    def popen(self, name: str, *words: str | Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start one of PostgreSQL's commands, detached from the caller's terminal and pipes."""
        chosen = binaries.choose(self.major())
        runner = account.choose(self.data, chosen)
        environment = {key: val for key, val in os.environ.items() if not key.startswith("PG")}
        with self.open_log() as log:
            return subprocess.Popen(
                runner.command(chosen.folder / name, *words),
                cwd=self.data,
                env=environment | {"LC_ALL": "C"},
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=runner.become,  # noqa: PLW1509 - the keeper has one thread
            )

    def open_log(self) -> IO[bytes]:
        """Open the log for appending."""
        return self.log.open("ab")


def command_line(pid: int) -> str:
    """Return a process's command line; empty if it has ended (zombies included)."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            return ""
    words = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=10).stdout
