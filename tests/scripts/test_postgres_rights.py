"""What the service's role, and the server's account, may not do."""

import os
import subprocess
import sys
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg2
import pytest

import postgres
from lib import account
from tests.scripts.test_postgres import USER, server_pid
from tests.support.cluster import migrate, query

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# A data folder of an earlier release: its service was the superuser, and owned everything.
NAMES: tuple[LiteralString, ...] = ("ALTER DATABASE service RENAME TO items", "ALTER ROLE postgres RENAME TO items")
FORMER = """
CREATE TABLE former (id bigint GENERATED ALWAYS AS IDENTITY, word text);
CREATE SEQUENCE counted;
CREATE VIEW words AS SELECT word FROM former;
CREATE TYPE mood AS ENUM ('good');
CREATE FUNCTION two() RETURNS int LANGUAGE sql RETURN 2;
CREATE SCHEMA "More";
CREATE TABLE "More"."Table" (id int);
CREATE EXTENSION btree_gist;
CREATE TABLE divided (id int) PARTITION BY LIST (id);
CREATE TABLE part PARTITION OF divided FOR VALUES IN (1);
CREATE TYPE span AS RANGE (subtype = float8);
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Name a folder that only this user can reach."""
    (tmp_path / "private").mkdir(mode=0o700)
    return tmp_path / "private" / "a folder"


@pytest.mark.parametrize(
    "attack",
    [
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "COPY (SELECT 1) TO '/tmp/out-of-the-database'",
        "SELECT pg_read_file('/etc/shadow')",
        "SELECT lo_import('/etc/passwd')",
        "ALTER SYSTEM SET archive_command = 'id'",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "SET ROLE postgres",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/tmp/f.so'",
        "CREATE DATABASE another",
    ],
)
def test_the_service_has_no_rights_beyond_its_database(own_database_url: str, attack: LiteralString) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(own_database_url, attack)


def test_a_database_of_an_earlier_release_becomes_the_service_s(data: Path) -> None:
    with postgres.running(data, durable=False):
        superuser = urlsplit(postgres.superuser_url(data))
        query(superuser.geturl(), FORMER)
        query(superuser.geturl(), "CREATE ROLE another SUPERUSER LOGIN PASSWORD 'another'")
        another = superuser._replace(netloc=f"another:another@127.0.0.1:{superuser.port}", path="/postgres")
        for statement in NAMES:
            query(another.geturl(), statement)
        (data / "superuser-password").rename(data / "password")
        (data / "service-password").unlink()
        # This user leaves while the server runs: the next one is a release that knows the new role.
        with postgres.running(data, durable=False) as url:
            query(
                url,
                'DROP VIEW words; DROP SEQUENCE counted; DROP TYPE mood; DROP FUNCTION two; DROP SCHEMA "More" CASCADE',
            )
            query(url, "DROP TABLE divided; DROP TYPE span; ALTER TABLE former ADD COLUMN more int")
            query(url, "INSERT INTO former (word) VALUES ('kept')")
            migrate(url)
            assert query(url, "SELECT word FROM former") == [("kept",)]
    with postgres.running(data, durable=False) as url:
        assert query(url, "SELECT word FROM former") == [("kept",)]


@needs_root
def test_as_root_the_server_has_another_uid(data: Path) -> None:
    with postgres.running(data, durable=False) as url:
        pid = server_pid(data)
        status = Path(f"/proc/{pid}/status").read_text()
        uids = {int(uid) for line in status.splitlines() if line.startswith("Uid:") for uid in line.split()[1:]}
        assert uids == {account.unprivileged()}
        assert "CapEff:\t0000000000000000" in status
        assert Path(f"/proc/{pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
        secret = data.parent / "secret"
        secret.write_text("of root's")
        with pytest.raises(psycopg2.Error, match=r"No such file|Permission denied"):
            query(postgres.superuser_url(data), "SELECT pg_read_file(%s)", [str(secret)])
        assert query(url, "SELECT 1") == [(1,)]


@needs_root
def test_as_root_data_of_an_earlier_release_is_given_to_the_server_s_account(data: Path) -> None:
    with postgres.running(data, durable=False) as url:
        query(url, "CREATE TABLE kept AS SELECT 'kept' AS word")
    account.give(data, 0)

    with postgres.running(data, durable=False) as url:
        assert query(url, "SELECT word FROM kept") == [("kept",)]
        assert Path(f"/proc/{server_pid(data)}").stat().st_uid != 0


@needs_root
def test_root_without_other_rights_says_so(data: Path) -> None:
    """Without CAP_SYS_ADMIN there is no mount namespace, but perhaps a user namespace; else one line says why not."""
    data.mkdir(mode=0o700)
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", USER, str(data)]
    environment = {**os.environ, "PYTHONPATH": str(Path(postgres.__file__).parent)}
    done = subprocess.run(
        command, check=False, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    said = done.stderr.splitlines()[-1]
    if done.returncode == 0:
        assert "keeps root's rights" in said
        assert done.stdout.startswith("postgresql://service:")
    else:
        assert "does not run as root" in said
