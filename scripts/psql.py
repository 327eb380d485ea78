"""A SQL prompt in the service's database. `scripts/psql` execs this."""

import os
import re
import shutil
import signal
import subprocess
import sys

from psycopg2.extensions import make_dsn, parse_dsn

from lib import binaries
from lib.binaries import PostgresError
from lib.database_url import database

MISSING = "there is no psql on this machine (on Debian: apt install postgresql-client); the database is at\n{url}"


def find_psql() -> str | None:
    """Find the client on PATH, or beside a server; the wheel of embedded binaries has none."""
    beside = (found.folder / "psql" for found in binaries.on_machine())
    return shutil.which("psql") or next((str(file) for file in beside if file.is_file()), None)


def main(words: list[str]) -> int:
    """Run psql, and return its exit code."""
    with database() as url:
        psql = find_psql()
        if psql is None:
            raise PostgresError(MISSING.format(url=url))
        # libpq does not know SQLAlchemy's scheme, which names the driver.
        parameters = parse_dsn(re.sub(r"^(postgresql\+psycopg2|postgres)://", "postgresql://", url))
        # It must not appear in the list of processes.
        password = {"PGPASSWORD": parameters.pop("password")} if "password" in parameters else {}
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for psql: it cancels a statement
        command = [psql, "--dbname", make_dsn(**parameters), *words]
        return subprocess.run(command, check=False, env={**os.environ, **password}).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PostgresError as error:
        sys.exit(f"psql: {error}")
