"""The launcher of PostgreSQL: shared, stopped after the last user, whole after every kind of kill."""

import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import postgres
from lib import account, binaries, keeper
from lib.cluster import Cluster, Running
from lib.locks import SHARED, is_taken, open_lock, take

USER = """
import sys, postgres
from pathlib import Path
with postgres.running(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cluster once: a test takes a copy."""
    data = tmp_path_factory.mktemp("template") / "pg"
    with postgres.running(data, durable=False) as url:
        ask(url, "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('kept')")
    return data


@pytest.fixture
def data(template: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "a folder"
    shutil.copytree(template, folder)
    return folder


def ask(url: str, sql: str) -> Any:
    connection = psycopg2.connect(url, connect_timeout=60)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


@contextmanager
def other_user(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Use the server from another process."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(data)],
        env={**os.environ, "PYTHONPATH": str(Path(postgres.__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(120)
        process.stdout.close()


def within(seconds: float, true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def server_pid(data: Path) -> int:
    server = Cluster(data).running()
    assert server
    return server.pid


def keeper_pid(data: Path) -> int:
    pids = subprocess.run(
        ["pgrep", "-f", f"postgres.py keep {data}"], check=True, capture_output=True, text=True, timeout=60
    )
    return int(pids.stdout)


def all_gone(data: Path) -> bool:
    return Cluster(data).running() is None and not is_taken(data / "keeper")


def test_users_share_one_server_and_the_last_one_stops_it(data: Path) -> None:
    with postgres.running(data, durable=False) as url:
        with other_user(data) as (_, same):
            assert same == url
            assert ask(same, "SELECT word FROM kept") == "kept"
        assert ask(url, "SELECT 1") == 1
    assert all_gone(data)


def test_users_that_start_at_once_share_one_server(data: Path) -> None:
    with other_user(data) as (_, first), other_user(data) as (_, second):
        assert first == second
        assert ask(second, "SELECT 1") == 1
    assert all_gone(data)


def test_the_server_goes_when_its_only_user_is_killed(data: Path) -> None:
    with other_user(data) as (process, _):
        process.kill()
    assert within(120, lambda: all_gone(data))


def test_a_killed_server_comes_back_on_its_port(data: Path) -> None:
    with postgres.running(data, durable=False) as url:
        old = server_pid(data)
        os.kill(old, signal.SIGKILL)

        def is_back() -> bool:
            server = Cluster(data).running()
            return server is not None and server.ready and server.pid != old

        assert within(120, is_back)
        assert ask(url, "SELECT word FROM kept") == "kept"
    assert all_gone(data)


def test_a_server_that_was_ready_is_started_until_it_is_ready_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ATTEMPTS": 2, "ATTEMPT_PAUSE": 0, "LONG_PAUSE": 0.05}.items():
        monkeypatch.setattr(keeper, name, value)
    seen = [False]

    class Watched(Cluster):
        def running(self) -> Running | None:
            server = super().running()
            seen.append(server is not None and server.ready)
            return server

    cluster = Watched(data, durable=False)
    user, keepers = open_lock(data / "users"), open_lock(data / "users")
    take(user, SHARED)
    keeping = threading.Thread(target=keeper.keep, args=(cluster, keepers), daemon=True)
    keeping.start()
    assert within(120, lambda: seen[-1])

    needed = data / "cluster" / "global" / "pg_control"
    needed.rename(data / "away")
    port = (data / "port").read_text()
    (data / "port").write_text("")  # as a full disk leaves it
    os.kill(server_pid(data), signal.SIGKILL)
    assert within(120, lambda: cluster.log.read_text().count("global/pg_control") > 5), cluster.log.read_text()
    (data / "away").rename(needed)
    assert within(120, lambda: seen[-1]), cluster.log.read_text()
    server = cluster.running()
    assert server is not None
    assert str(server.port) == port

    os.close(user)
    keeping.join(120)
    assert not seen[-1]


def test_a_server_without_a_keeper_is_adopted_and_stopped(data: Path) -> None:
    with other_user(data) as (process, url):
        pid = server_pid(data)
        os.kill(keeper_pid(data), signal.SIGKILL)
        process.kill()
    with postgres.running(data, durable=False) as adopted:
        assert (adopted, server_pid(data)) == (url, pid)
        assert is_taken(data / "keeper")
    assert all_gone(data)


def test_the_last_user_stops_a_server_whose_keeper_was_killed(data: Path) -> None:
    with postgres.running(data, durable=False):
        os.kill(keeper_pid(data), signal.SIGKILL)
    assert all_gone(data)


def test_an_outage_can_be_made_and_ended(data: Path) -> None:
    with postgres.running(data, durable=False) as url:
        postgres.pause(data)
        with pytest.raises(psycopg2.OperationalError):
            ask(url, "SELECT 1")
        postgres.resume(data)
        assert ask(url, "SELECT word FROM kept") == "kept"


def test_a_pid_file_that_names_another_process_is_no_server(data: Path) -> None:
    lines = [str(os.getpid()), str(data / "cluster"), "0", "1", "", "127.0.0.1", "", "ready"]
    (data / "cluster" / "postmaster.pid").write_text("\n".join(lines))
    with postgres.running(data, durable=False) as url:
        assert ask(url, "SELECT word FROM kept") == "kept"


def test_a_half_made_cluster_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "cluster.new").mkdir()
    (tmp_path / "cluster.new" / "PG_VERSION").write_text("1")
    with postgres.running(tmp_path, durable=False) as url:
        assert ask(url, "SELECT current_user || pg_encoding_to_char(encoding) FROM pg_database") == "serviceUTF8"


def test_no_process_of_it_holds_a_pipe_of_the_caller(data: Path) -> None:
    with other_user(data) as (process, _), postgres.running(data, durable=False):
        process.kill()
        assert process.stdout
        assert select.select([process.stdout], [], [], 60)[0], "its server and its keeper hold the pipe"
        assert process.stdout.read() == ""
    assert within(120, lambda: all_gone(data))


def test_only_its_owner_gets_in(data: Path) -> None:
    with postgres.running(data, durable=False) as url:
        password = (data / "service-password").read_text()
        with pytest.raises(psycopg2.OperationalError):
            ask(url.replace(password, "guess"), "SELECT 1")
        with pytest.raises(psycopg2.OperationalError):
            ask(url.replace(f":{password}", ""), "SELECT 1")
        for name in ("superuser-password", "service-password"):
            assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((data / "cluster").stat().st_mode) == 0o700


def test_data_is_durable_unless_it_is_said_to_be_thrown_away(data: Path) -> None:
    with postgres.running(data) as url:
        assert ask(url, "SHOW fsync") == "on"
        assert ask(url, "SHOW data_checksums") == "on"
    with postgres.running(data, durable=False) as url:
        assert ask(url, "SHOW fsync") == "off"


def test_data_of_another_version_is_refused_in_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "cluster" / "PG_VERSION").write_text("13\n")
    monkeypatch.setattr(binaries, "from_wheel", lambda: binaries.Binaries(Path("/wheel"), 18))
    with pytest.raises(postgres.PostgresError, match="made by PostgreSQL 13") as refusal, postgres.running(data):
        pass
    assert "\n" not in str(refusal.value)


def test_a_server_that_cannot_start_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cluster.new").touch()  # in the way of the new cluster
    (tmp_path / "superuser-password").mkdir()
    with pytest.raises(postgres.PostgresError) as refusal, postgres.running(tmp_path):
        pass
    assert "\n" not in str(refusal.value)
    assert all_gone(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_runs_it_as_the_owner_of_the_folder(template: Path) -> None:
    owner = account.unprivileged()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "pg"
        shutil.copytree(template, data)
        for path in (data.parent, data, *data.rglob("*")):
            os.chown(path, owner, -1)
        with postgres.running(data, durable=False) as url:
            assert Path(f"/proc/{server_pid(data)}").stat().st_uid == owner
            assert ask(url, "SELECT word FROM kept") == "kept"
