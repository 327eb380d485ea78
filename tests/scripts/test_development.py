"""What a developer uses: `scripts/migrate`, `scripts/psql`, and `scripts/run --reload` on a terminal."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg2
import pytest

from tests.support.cluster import Cluster, query
from tests.support.copies import copy_repository
from tests.support.service import ROOT, environment, eventually, free_port

pytestmark = pytest.mark.slow

DEMO = ROOT / "scripts" / "lib" / "demo.py"
REVISION = "SELECT version_num FROM alembic_version"


@pytest.fixture
def empty_database_url(cluster: Cluster) -> Iterator[str]:
    """Name a database in which nothing is."""
    with cluster.database(empty=True) as url:
        yield url


def run(script: str, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run what a script runs in `.venv`, by this Python."""
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *words],
        check=False,
        capture_output=True,
        cwd=ROOT,
        env=environment(**variables),
        text=True,
        timeout=600,
    )


def test_migrations_go_up_and_down(empty_database_url: str) -> None:
    assert run("migrate", "up", DATABASE_URL=empty_database_url).returncode == 0
    newest = query(empty_database_url, REVISION)
    assert run("migrate", "down", DATABASE_URL=empty_database_url).returncode == 0

    assert query(empty_database_url, REVISION) < newest
    assert run("migrate", "up", DATABASE_URL=empty_database_url).returncode == 0
    assert query(empty_database_url, REVISION) == newest


def test_the_sql_is_printed_without_a_database() -> None:
    done = run("migrate", "sql")

    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE idempotency_keys" in done.stdout


def test_where_models_and_migrations_agree_nothing_is_written() -> None:
    before = sorted((ROOT / "alembic/versions").iterdir())

    done = run("migrate", "new", "nothing")

    assert done.returncode == 1
    assert "there is nothing to write" in done.stderr
    assert sorted((ROOT / "alembic/versions").iterdir()) == before


def test_one_newest_migration_is_not_merged() -> None:
    before = sorted((ROOT / "alembic/versions").iterdir())

    done = run("migrate", "merge")

    assert done.returncode == 0, done.stderr
    assert "nothing to merge" in done.stdout
    assert sorted((ROOT / "alembic/versions").iterdir()) == before


@pytest.mark.parametrize("words", [["down", "4711"], ["up", "no-such"]])
def test_a_revision_that_is_none_is_one_line(empty_database_url: str, words: list[str]) -> None:
    done = run("migrate", *words, DATABASE_URL=empty_database_url)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("migrate: ")
    assert "Traceback" not in done.stderr


def test_a_database_that_is_away_is_one_line() -> None:
    done = run("migrate", "up", DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("migrate: ")
    assert "Traceback" not in done.stderr


def test_psql_asks_the_service_s_database(empty_database_url: str) -> None:
    url = empty_database_url.replace("postgresql://", "postgresql+psycopg2://")
    done = run("psql", "-Atc", "SELECT current_database()", DATABASE_URL=url)

    if shutil.which("psql"):
        assert done.stdout.strip() == psycopg2.extensions.parse_dsn(empty_database_url)["dbname"]
    elif done.returncode:
        assert "there is no psql" in done.stderr


@pytest.fixture
def terminal(own_database_url: str, tmp_path: Path) -> Iterator["Terminal"]:
    """Run `scripts/run --reload` of a copy, on a terminal."""
    copy_repository(tmp_path / "copy")
    terminal = Terminal(tmp_path / "copy", own_database_url)
    yield terminal
    terminal.end()


class Terminal:
    """A developer's."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._ours, theirs = pty.openpty()
        self._shown = b""
        variables = {"DATABASE_URL": database_url, "PORT": str(self.port), "HOST": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, "scripts/serve.py", "--reload", "--demo"],
            cwd=folder,
            env={**environment(**variables), "PYTHONPATH": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def shown(self) -> str:
        """Read what is on it so far."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self._shown += os.read(self._ours, 65536)
            except OSError:  # nobody writes any more
                break
        return self._shown.decode()

    def get(self, path: str) -> int:
        """Ask the service; 0 where there is none."""
        self.shown()
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}{path}", timeout=30, trust_env=False).status_code
        except httpx2.TransportError:
            return 0

    def end(self) -> int:
        """Press Ctrl-C, as it were."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < deadline:
            self.shown()
            time.sleep(0.05)
        return self.process.wait(1)


def test_new_code_is_served_at_once_and_the_log_is_for_people(terminal: Terminal) -> None:
    eventually(lambda: "the API is at" in terminal.shown())
    eventually(lambda: terminal.get("/health/ready") == 200)
    router = terminal.folder / "app/health/router.py"
    text = router.read_text()

    router.write_text(text.replace('"/live"', '"/alive"'))
    eventually(lambda: terminal.get("/health/alive") == 200)
    # A slip of the pen ends nothing: the next change is served.
    router.write_text("def")
    eventually(lambda: "waiting for a change" in terminal.shown())
    router.write_text(text)
    eventually(lambda: terminal.get("/health/live") == 200)
    eventually(lambda: terminal.get("/nothing") == 404)
    terminal.get("/%1B%5D0;title%07%1B%5B2J%0AFORGED%0D%C2%9B1m%E2%80%AE%7F")

    assert terminal.end() == 0
    shown = terminal.shown()
    assert ("demo: created" if DEMO.exists() else "no demo data") in shown
    assert f"the API is at http://localhost:{terminal.port}, its documentation at" in shown
    assert re.search(r"\d\d:\d\d:\d\d INFO +app\.access: GET /nothing 404  trace_id=\w{32}  duration_ms=[\d.]+", shown)
    assert not re.search(r'^\{"timestamp"', shown, re.MULTILINE)
    # What a path says to the terminal is shown to the developer instead.
    assert r"GET /\x1b]0;title\x07\x1b[2J\nFORGED\r\x9b1m" in shown
    assert not re.search(r"[^\n\r -~]", shown), ascii(shown)
