"""A PostgreSQL that can be hurt."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from tests.support.cluster import query
from tests.support.service import eventually


class PostgreSQL:
    """A running server, which its keeper starts again when it dies (`scripts/postgres.py`)."""

    def __init__(self, folder: Path, url: str) -> None:
        from postgres import superuser_url  # noqa: PLC0415

        self._folder = folder
        self.url = url
        self._superuser_url = superuser_url(folder)

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path) -> Iterator["PostgreSQL"]:
        """Run one that keeps what it has committed."""
        from postgres import running  # noqa: PLC0415

        with running(folder) as url:
            yield cls(folder, url)

    def _postmaster(self) -> int:
        return int((self._folder / "cluster" / "postmaster.pid").read_text().splitlines()[0])

    def _processes(self) -> list[int]:
        postmaster = self._postmaster()
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
        return [postmaster, *map(int, children.split())]

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Stop every process of it (SIGSTOP): its connections are there, and nobody answers."""
        stopped = self._processes()
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Stop it, and start it again after the block."""
        from postgres import pause, resume  # noqa: PLC0415

        pause(self._folder)
        try:
            yield
        finally:
            resume(self._folder)

    def crash(self) -> None:
        """Have it quit at once, without a checkpoint, and wait until it is back."""
        former = self._postmaster()
        os.kill(former, signal.SIGQUIT)
        eventually(lambda: self._is_back(former), 60)

    def _is_back(self, former: int) -> bool:
        with contextlib.suppress(OSError, IndexError, ValueError, psycopg2.Error):
            return self._postmaster() != former and query(self.url, "SELECT 1") == [(1,)]
        return False

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Turn it into a server that takes no writes, and back: what a failover looks like to its clients."""
        query(self._superuser_url, "ALTER SYSTEM SET default_transaction_read_only = on")
        query(self._superuser_url, "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            query(self._superuser_url, "ALTER SYSTEM RESET default_transaction_read_only")
            query(self._superuser_url, "SELECT pg_reload_conf()")

    def terminate_backends(self) -> int:
        """End every other session on it."""
        return len(
            query(
                self._superuser_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
            )
        )
