"""What a pod's init container waits for: a schema that is not older than its code."""

import os
import signal
import subprocess
import sys
import time

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from lib import await_schema
from tests.deploy.conftest import ROOT
from tests.support.cluster import Cluster, migrate, query

pytestmark = pytest.mark.slow

TIMEOUT = 240.0  # seconds


@pytest.mark.parametrize(
    ("found", "recent"),
    [
        (set(), False),  # never migrated
        ({"0001"}, False),
        ({"0002"}, True),
        ({"0003"}, True),  # newer than the code, as after a rollback
    ],
)
def test_code_takes_its_own_schema_or_a_newer_one(found: set[str], *, recent: bool) -> None:
    assert await_schema.is_recent(found, outdated={"0001"}) is recent


def test_the_code_knows_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_base()
    assert first in await_schema.outdated_revisions()


def start(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scripts.lib.await_schema"]
    variables = {**os.environ, "DATABASE_URL": url}
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True)


def test_it_waits_for_the_migration(cluster: Cluster) -> None:
    with cluster.database(empty=True) as url, start(url) as waiting:
        assert waiting.stdout is not None
        assert "waiting for the migration" in waiting.stdout.readline()
        assert waiting.poll() is None
        migrate(url)
        assert waiting.wait(TIMEOUT) == 0
        assert "the schema is ready" in waiting.stdout.read()


def test_it_starts_on_a_schema_of_the_next_release(cluster: Cluster) -> None:
    with cluster.database() as url:
        query(url, "UPDATE alembic_version SET version_num = 'next'")
        with start(url) as waiting:
            assert waiting.wait(TIMEOUT) == 0


def test_it_waits_for_the_database_and_stops_when_told() -> None:
    with start("postgresql://nobody@127.0.0.1:1/nowhere") as waiting:
        assert waiting.stdout is not None
        assert "waiting for the database" in waiting.stdout.readline()
        time.sleep(0.1)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(TIMEOUT) == 0
