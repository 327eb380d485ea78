"""The keeper: a process that runs a server while it has users, and then stops it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from lib.binaries import PostgresError
from lib.cluster import Cluster
from lib.locks import EXCLUSIVE, POLL, open_lock, take

# Consecutive starts that may fail: children of a killed server keep its shared memory until they have ended. One that
# was ready is started for as long as it has users: its disk may be full for a while.
ATTEMPTS = 20
ATTEMPT_PAUSE, LONG_PAUSE = 0.5, 5.0  # seconds, up to so many attempts and after them
STOP_TIMEOUT = 40.0  # seconds


def run_keeper(cluster: Cluster) -> None:
    """Detach from the caller and keep the server, unless another keeper does."""
    lock = open_lock(cluster.data / "keeper")
    if not take(lock, EXCLUSIVE):
        return
    if os.fork():
        os._exit(0)  # so that no process has to wait for the keeper
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    users = open_lock(cluster.data / "users")
    try:
        keep(cluster, users)
    except (PostgresError, OSError) as error:
        print(f"keeper: {error}", flush=True)
    finally:
        # In this order: the next process that takes a share of `users` must see that there is no keeper.
        os.close(lock)
        os.close(users)


def keep(cluster: Cluster, users: int) -> None:
    """Run the server until no process holds a share of `users`."""
    child: subprocess.Popen[bytes] | None = None
    failures, port, next_start = 0, 0, 0.0
    cluster.paused.unlink(missing_ok=True)
    cluster.create()
    try:
        while not take(users, EXCLUSIVE):
            if child and child.poll() is not None:
                child = None
            server = cluster.running()
            if server and server.ready:
                failures, port, next_start = 0, server.port, 0.0
            elif not (server or child or cluster.paused.exists()) and time.monotonic() >= next_start:
                if failures == ATTEMPTS and not port:
                    raise PostgresError(f"PostgreSQL does not start, see {cluster.log}")
                failures += 1
                next_start = time.monotonic() + (ATTEMPT_PAUSE if failures < ATTEMPTS else LONG_PAUSE)
                with suppress(*[OSError, PostgresError, subprocess.SubprocessError] if port else []):
                    child = cluster.start(port)
            time.sleep(POLL)
    finally:
        stop(cluster, child)


def stop(cluster: Cluster, child: subprocess.Popen[bytes] | None) -> None:
    """Stop the server, even if it has not started far enough to be found."""
    if child and child.poll() is None:
        child.send_signal(signal.SIGINT)
    cluster.stop()
    if child:
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()


def last_line(log: Path) -> str:
    """Return the end of the log, which shows why the keeper ended."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""
