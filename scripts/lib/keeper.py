"""The keeper: a process that has a server run while it has users, and stops it after the last."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lib.binaries import PostgresError
from lib.cluster import Cluster
from lib.locks import EXCLUSIVE, POLL, open_lock, take

# Starts in a row that may fail: the children of a killed server hold on to its shared memory until
# they have noticed.
ATTEMPTS = 20
ATTEMPT_PAUSE = 0.5  # seconds
STOP_TIMEOUT = 40.0  # seconds


def run_keeper(cluster: Cluster) -> None:
    """Detach from the caller and keep the server, unless somebody does already."""
    lock = open_lock(cluster.data / "keeper")
    if not take(lock, EXCLUSIVE):
        return
    if os.fork():
        os._exit(0)  # nobody has to bury the keeper
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    users = open_lock(cluster.data / "users")
    try:
        keep(cluster, users)
    except (PostgresError, OSError) as error:
        print(f"keeper: {error}", flush=True)
    finally:
        # In this order: whoever gets a share of `users` next must see that there is no keeper.
        os.close(lock)
        os.close(users)


def keep(cluster: Cluster, users: int) -> None:
    """Have the server run until `users` is free of shares."""
    child: subprocess.Popen[bytes] | None = None
    failures = 0
    cluster.paused.unlink(missing_ok=True)
    cluster.create()
    try:
        while not take(users, EXCLUSIVE):
            if child and child.poll() is not None:
                child = None
            server = cluster.running()
            if server:
                failures = 0 if server.ready else failures
            elif child is None and not cluster.paused.exists():
                if failures == ATTEMPTS:
                    raise PostgresError(f"PostgreSQL does not start, see {cluster.log}")
                time.sleep(ATTEMPT_PAUSE if failures else 0)
                failures += 1
                child = cluster.start()
            time.sleep(POLL)
    finally:
        stop(cluster, child)


def stop(cluster: Cluster, child: subprocess.Popen[bytes] | None) -> None:
    """Stop the server, also one that has not come far enough to be found."""
    if child and child.poll() is None:
        child.send_signal(signal.SIGINT)
    cluster.stop()
    if child:
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()


def last_line(log: Path) -> str:
    """Return the end of a log, which says why there is no keeper."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""
