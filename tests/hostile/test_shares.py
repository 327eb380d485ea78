"""Expensive or waiting database work leaves a share to others; a full disk makes metrics stale, and no more."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.conftest import MakeSettings, StartService
from tests.hostile.ordinary import ordinary_beside
from tests.support.cluster import connected, run
from tests.support.http import send
from tests.support.service import ROOT, Service, environment, eventually, free_port

pytestmark = pytest.mark.slow


def test_waiters_for_a_locked_row_do_not_hold_up_reads(start_service: StartService, database_url: str) -> None:
    service = start_service(DB_STATEMENT_TIMEOUT="10")
    locked = service.client.post("/things", json={"name": "Locked", "price": 1}).headers["location"]
    patch = b'{"price":2}'

    def attack() -> None:
        answer = send(service.port, "PATCH", locked, ("Content-Type", "application/json"), body=patch)
        assert answer.status == 503

    with connected(database_url) as holder, holder.cursor() as cursor, ordinary_beside(service):
        cursor.execute("BEGIN")
        cursor.execute("SELECT FROM things WHERE id = %s FOR UPDATE", [int(locked.rpartition("/")[2])])
        waiters = [threading.Thread(target=attack, daemon=True) for _ in range(60)]
        for waiter in waiters:
            waiter.start()
        for waiter in waiters:
            waiter.join(120)
        cursor.execute("ROLLBACK")


def test_waiters_for_a_row_and_for_a_connection_together_leave_requests_to_others(
    start_service: StartService, database_url: str
) -> None:
    service = start_service(DB_STATEMENT_TIMEOUT="120")
    rows = [service.client.post("/things", json={"name": "Lamp", "price": 1}).headers["location"] for _ in range(8)]
    deletes = [f"DELETE {row} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for row in rows]
    body = b'{"items":[{"name":"Lamp","price":1}]}'
    head = (
        f"POST /things/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    batch = head.encode() + b"\r\n" + body
    with ExitStack() as stack:
        holder = stack.enter_context(connected(database_url))
        cursor = stack.enter_context(holder.cursor())
        cursor.execute("BEGIN")
        cursor.execute("SELECT FROM things FOR UPDATE")
        with ordinary_beside(service) as ordinary:
            for request in [*deletes * 8, *[deletes[0]] * 400, *[batch] * 400]:
                stack.enter_context(service.connect()).send(request)
            seen = len(ordinary.waited)
            eventually(lambda: len(ordinary.waited) >= seen + 20)
        cursor.execute("ROLLBACK")


_SLOW_ROWS = """
    INSERT INTO things (name, price) SELECT 'Slow', 0.01 FROM generate_series(1, 40);
    ALTER TABLE things ENABLE ROW LEVEL SECURITY;
    ALTER TABLE things FORCE ROW LEVEL SECURITY;
    CREATE POLICY readable ON things FOR SELECT USING (price <> 0.01 OR pg_sleep(0.05) IS NOT NULL);
    CREATE POLICY writable ON things FOR INSERT WITH CHECK (true)
"""


def test_expensive_lists_do_not_hold_up_reads_by_id(start_service: StartService, own_database_url: str) -> None:
    service = start_service(DATABASE_URL=own_database_url, DB_POOL_TIMEOUT="15")
    thing = service.client.post("/things", json={"name": "Lamp", "price": 19.99}).headers["location"]
    with connected(own_database_url) as connection:
        run(connection, _SLOW_ROWS)  # a list of them takes 2 s, without any CPU time
    statuses: list[int] = []

    def attack() -> None:
        statuses.append(send(service.port, "GET", "/things?limit=100&min_price=1000").status)

    with ordinary_beside(service):
        lists = [threading.Thread(target=attack, daemon=True) for _ in range(100)]
        for thread in lists:
            thread.start()
        eventually(lambda: _waiting(service) >= 60, seen=lambda: statuses)
        for _ in range(3):
            assert send(service.port, "GET", thing).status == 200
        answered = len(statuses)
        for thread in lists:
            thread.join(60)
    assert answered < 50, f"a read by id waited for {answered} lists"
    assert set(statuses) <= {200, 503}


def _waiting(service: Service) -> float:
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("db_pool_waiting"))


@pytest.mark.parametrize(
    "url", ["postgresql://u:abc@SECRET@host/db", "postgresql://u:a@b c/db", "postgresql://u@h;x/db"]
)
def test_a_host_that_may_be_a_part_of_the_password_is_refused(make_settings: MakeSettings, url: str) -> None:
    with pytest.raises(ValidationError, match="invalid host") as error:
        make_settings(database_url=url)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@[::1]:5432/db",
        "postgresql://u:p@one,two.example:5433/db?target_session_attrs=read-write",
        "postgresql:///db?host=/var/run/postgresql",
        "postgresql://u:p%40x@h/db",
    ],
)
def test_hosts_of_every_kind_are_taken(make_settings: MakeSettings, url: str) -> None:
    assert make_settings(database_url=url).database_url.get_secret_value() == url


_COUNT = """
import os, sys
from pathlib import Path
from app.core.observability import instruments
for number in range(3_000):
    instruments.HTTP_REQUESTS.labels("GET", "/" + "x" * 200 + str(number), "200").inc()
print("alive")
"""


@pytest.mark.parametrize("kilobytes", [8, 200])
def test_metrics_on_a_full_file_system_end_no_process(tmp_path: Path, kilobytes: int) -> None:
    script = f'mount -t tmpfs -o size={kilobytes}k none "$2" && exec "$0" -c "$1"'
    words = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, sys.executable, _COUNT, str(tmp_path)]
    if subprocess.run(["unshare", "--mount", "--map-root-user", "true"], check=False, timeout=60).returncode != 0:
        pytest.skip("no user namespaces here")
    run = subprocess.run(
        words,
        cwd=ROOT,
        env=environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path), METRICS_SLOT="0"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert run.stdout.splitlines() == ["alive"], (run.returncode, run.stderr[-2000:])


_FULL_MEMORY = "mount -t tmpfs -o size=1m none /dev/shm"
_READ_ONLY = """
for folder in /tmp /var/tmp "$PWD"; do
    mount --rbind "$folder" "$folder" && mount -o remount,bind,ro "$folder" && ! touch "$folder/x" || exit 9
done 2>/dev/null
cd "$PWD"
"""


@contextmanager
def _served_after(mounts: str, database_url: str, **variables: str) -> Iterator[int]:
    """Serve in a mount namespace of its own; the port."""
    if subprocess.run(["unshare", "--mount", "--map-root-user", "true"], check=False, timeout=60).returncode != 0:
        pytest.skip("no user namespaces here")
    port = free_port()
    given = {"DATABASE_URL": database_url, "PORT": str(port), "HOST": "127.0.0.1", "DRAIN_SECONDS": "0"}
    script = f'{mounts}\nexec "$0" -m app.server app.main:app'
    process = subprocess.Popen(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, sys.executable],
        cwd=ROOT,
        env=environment(**given, **variables, WEB_CONCURRENCY="2"),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(lambda: process.poll() is not None or _is_alive(port))
        assert process.poll() is None, f"exit code {process.returncode}"
        yield port
    finally:
        process.terminate()
        code = process.wait(120)
    assert code == 0


def test_metrics_are_elsewhere_where_shared_memory_has_no_room(tmp_path: Path, database_url: str) -> None:
    with _served_after(_FULL_MEMORY, database_url, TMPDIR=str(tmp_path)) as port:
        assert b"http_requests_total{" in send(port, "GET", "/metrics").body
        assert list(tmp_path.glob("service-metrics-*/*.db"))
    assert not list(tmp_path.glob("service-metrics-*"))


def test_no_folder_but_shared_memory_need_be_writable(database_url: str) -> None:
    """As in a container with a read-only file system and no `/tmp`."""
    with _served_after(_READ_ONLY, database_url) as port:
        assert b"http_requests_total{" in send(port, "GET", "/metrics").body


def _is_alive(port: int) -> bool:
    try:
        return send(port, "GET", "/health/live").status == 200
    except OSError:
        return False
