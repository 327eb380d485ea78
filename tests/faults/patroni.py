"""Three PostgreSQL nodes under Patroni and etcd, all on loopback ports, and PgBouncer: Debian's packages."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg2

from tests.support.cluster import prepare, query
from tests.support.service import eventually, free_port

_ACCOUNT = "postgres"  # PostgreSQL refuses to run as root
_PASSWORD = "secret"  # noqa: S105 - of a database that lives for a minute
# Seconds until a leader that is silent is replaced; Patroni takes nothing less. The rest follows from it.
TTL = 20
_NODE = """
scope: service
name: {name}
etcd3: {{host: "127.0.0.1:{etcd}"}}
restapi: {{listen: "127.0.0.1:{rest}", connect_address: "127.0.0.1:{rest}"}}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: 1
    retry_timeout: 3
    synchronous_mode: true
    maximum_lag_on_failover: 1048576
    postgresql: {{use_pg_rewind: true, parameters: {{max_connections: 100}}}}
  initdb: [{{encoding: UTF8}}, {{locale: C}}, data-checksums]
postgresql:
  listen: "127.0.0.1:{port}"
  connect_address: "127.0.0.1:{port}"
  data_dir: {folder}/{name}
  bin_dir: {binaries}
  pgpass: {folder}/{name}.pgpass
  authentication:
    superuser: {{username: postgres, password: {password}}}
    replication: {{username: replicator, password: {password}}}
    rewind: {{username: rewinder, password: {password}}}
  parameters: {{unix_socket_directories: "{folder}", fsync: "off"}}
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 md5", "host replication all 127.0.0.1/32 md5"]
"""
_PGBOUNCER = """
[databases]
{database} = host=127.0.0.1 port={port} dbname={database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 5
max_client_conn = 200
"""


def missing(*programs: str) -> str:
    """Say why a cluster cannot be run here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root, to become the account postgres"
    absent = [name for name in programs if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    return f"not installed: {', '.join(absent)}" if absent else ""


def start(folder: Path, name: str, *words: str) -> "subprocess.Popen[bytes]":
    """Start a process as the account that PostgreSQL accepts."""
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            words,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin:/usr/sbin", "LC_ALL": "C", "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=_ACCOUNT,
            group=_ACCOUNT,
            extra_groups=[],
        )


@contextlib.contextmanager
def folder_of_postgres() -> Iterator[Path]:
    """Make a folder that the account can use: pytest's own are closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    shutil.chown(folder, _ACCOUNT, _ACCOUNT)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def descendants(pid: int) -> list[int]:
    """List a process and all below it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


class Node:
    """One PostgreSQL and its Patroni."""

    def __init__(self, folder: Path, name: str, etcd: int) -> None:
        self.name, self.port, self.rest, self._folder = name, free_port(), free_port(), folder
        binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._file = folder / f"{name}.yml"
        self._file.write_text(
            _NODE.format(
                name=name,
                etcd=etcd,
                rest=self.rest,
                port=self.port,
                folder=folder,
                binaries=binaries,
                password=_PASSWORD,
                ttl=TTL,
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        self.process = start(self._folder, self.name, "patroni", str(self._file))

    def state(self) -> dict[str, str]:
        """Ask Patroni; empty when it does not answer."""
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            state: dict[str, str] = httpx2.get(
                f"http://127.0.0.1:{self.rest}/patroni", timeout=1, trust_env=False
            ).json()
            return state
        return {}

    def _processes(self) -> list[int]:
        assert self.process
        pids = descendants(self.process.pid)
        # Patroni detaches its server.
        with contextlib.suppress(OSError, ValueError, IndexError):
            pids += descendants(int((self._folder / self.name / "postmaster.pid").read_text().splitlines()[0]))
        return list(dict.fromkeys(pids))

    def signal(self, number: int) -> None:
        """Send a signal to every process of it."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it as a machine that loses its power."""
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait(10)

    def wake(self) -> None:
        """Have a stopped server go on as the primary that it was, and Patroni start anew beside it.

        A Patroni that goes on in the middle of its round may take the lock back by force from the new leader
        (3.0.2, `_update_leader` of etcd3.py): then the cluster itself loses what was acknowledged meanwhile. Outside of
        tests a watchdog ends such a Patroni.
        """
        assert self.process
        self.process.kill()
        self.process.wait(10)
        self.signal(signal.SIGCONT)
        self.start()


class Cluster:
    """The three of them."""

    def __init__(self, folder: Path, etcd: int) -> None:
        self.nodes = [Node(folder, f"node{number}", etcd) for number in range(3)]
        self.url = f"{_url(*self.nodes)}?target_session_attrs=read-write"

    def leader(self) -> Node | None:
        """Find the node that is the primary, as it and Patroni say."""
        for node in self.nodes:
            state = node.state()
            if state.get("role") in {"master", "primary"} and state.get("state") == "running":
                return node
        return None

    def standbys(self) -> int:
        """Count those that follow, one of them synchronously."""
        leader = self.leader()
        if leader is None:
            return 0
        with contextlib.suppress(psycopg2.Error):
            rows = query(
                _url(leader, database="postgres"),
                "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'",
            )
            return len(rows) if ("sync",) in rows else 0
        return 0

    def new_leader(self, former: Node) -> tuple[str, float]:
        """Wait until another node is the primary; return its own URL, and when it was."""
        urls = [_url(node) for node in self.nodes if node is not former]

        def leading() -> str | None:
            # A look at PostgreSQL itself: Patroni says so later.
            for url in urls:
                with contextlib.suppress(psycopg2.Error):
                    if query(url, "SHOW transaction_read_only") == [("off",)]:
                        return url
            return None

        return eventually(leading, TTL * 3, pause=0.1), time.monotonic()


def _url(*nodes: Node, database: str = "service") -> str:
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return f"postgresql://postgres:{_PASSWORD}@{hosts}/{database}"


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster whose database `service` is migrated."""
    with folder_of_postgres() as folder, contextlib.ExitStack() as stack:
        port, peer = free_port(), free_port()
        etcd = start(
            folder,
            "etcd",
            *("etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", f"http://127.0.0.1:{port}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{port}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
        )
        stack.callback(etcd.wait, 10)
        stack.callback(etcd.kill)
        eventually(lambda: _answers(f"http://127.0.0.1:{port}/health"), 30)
        running = Cluster(folder, port)
        for node in running.nodes:
            node.start()
            stack.callback(node.kill)
            if node is running.nodes[0]:
                eventually(running.leader, 60, pause=0.3)
        eventually(lambda: running.standbys() == 2, 90, pause=0.3)
        leader = running.leader()
        assert leader
        query(_url(leader, database="postgres"), "CREATE DATABASE service")
        prepare(running.url)
        yield running


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError, json.JSONDecodeError):
        return httpx2.get(url, timeout=1, trust_env=False).status_code == 200
    return False


@contextlib.contextmanager
def pgbouncer(server: str) -> Iterator[str]:
    """Run PgBouncer in transaction mode before a server; its clients need no password."""
    parts, listen = urlsplit(server), free_port()
    with folder_of_postgres() as folder:
        (folder / "users").write_text(f'"{parts.username}" "{parts.password or ""}"\n')
        database = parts.path.removeprefix("/")
        (folder / "ini").write_text(_PGBOUNCER.format(port=parts.port, database=database, listen=listen, folder=folder))
        process = start(folder, "pgbouncer", "pgbouncer", str(folder / "ini"))
        url = f"postgresql://{parts.username}@127.0.0.1:{listen}/{database}"
        try:
            eventually(lambda: _connects(url), 15)
            yield url
        finally:
            process.kill()
            process.wait(10)


def _connects(url: str) -> bool:
    with contextlib.suppress(psycopg2.Error):
        psycopg2.connect(url, connect_timeout=2).close()
        return True
    return False
