"""Write and run migrations. `scripts/migrate` runs this."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from alembic.config import Config
from alembic.operations.ops import CreateTableOp, ExecuteSQLOp, MigrationScript
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Column
from sqlalchemy.exc import SQLAlchemyError

import postgres
from alembic import command
from lib.database_url import ROOT, database

OFFLINE = "postgresql://offline/none"  # the settings require a URL, although printing SQL needs no server


def next_revision(revisions: Iterable[str], first: int = 1) -> str:
    """Choose the number of a migration: `0003` after `0002`, but at least `first`."""
    numbers = [int(revision) for revision in revisions if revision.isdecimal()]
    return f"{max(max(numbers, default=0) + 1, first):04}"


def _next_revision(config: Config) -> str:
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return next_revision(revisions, settings["tool"]["migrations"]["first"])


def complete(_context: object, _revision: object, scripts: list[MigrationScript]) -> None:
    """Add what Alembic does not see, triggers of versioned tables; raise if there is nothing to write."""
    from app.core.database.base import VERSION_TRIGGER  # noqa: PLC0415 - `main` makes it importable

    for script in scripts:
        made = script.upgrade_ops.ops if script.upgrade_ops else []
        for operation in [each for each in made if isinstance(each, CreateTableOp)]:
            if {"version", "updated_at"} <= {column.key for column in operation.columns if isinstance(column, Column)}:
                trigger = ExecuteSQLOp(VERSION_TRIGGER.format(table=operation.table_name))
                made.insert(made.index(operation) + 1, trigger)
    if all(script.upgrade_ops is None or script.upgrade_ops.is_empty() for script in scripts):
        raise CommandError("the models and the migrations agree: there is nothing to write")


def new(config: Config, message: str) -> None:
    """Write a migration: compare the models with the migrated schema of a temporary PostgreSQL."""
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres.running(Path(folder) / "postgres", durable=False) as url,
    ):
        os.environ["DATABASE_URL"] = url
        os.environ["LOG_LEVEL"] = "WARNING"
        command.upgrade(config, "head")
        script = command.revision(
            config,
            # A sentence, as the first line of the file's docstring.
            message[:1].upper() + message[1:].rstrip(".") + ".",
            autogenerate=True,
            rev_id=_next_revision(config),
            process_revision_directives=complete,
        )
    print(f"review it, and explain in its docstring why it is safe online: {_tidy(script)}")


def merge(config: Config) -> None:
    """Write a migration that follows both the template's newest and the service's own, if there are two."""
    heads = ScriptDirectory.from_config(config).get_heads()
    if len(heads) < 2:
        print(f"nothing to merge: {heads[0]} is the newest migration, and there is no other")
        return
    script = command.merge(config, "heads", "Merge the migrations of the template.", rev_id=_next_revision(config))
    print(f"wrote {_tidy(script)}")


def _tidy(script: object) -> Path:
    """Format a new migration, remove unused imports, and return its path in the repository."""
    file = Path(getattr(script, "path", ""))
    for words in (["format", "--quiet"], ["check", "--fix", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, str(file)], check=False)
    return file.relative_to(ROOT)


def run(verb: str, config: Config, revision: str | None) -> None:
    """Go up or down."""
    with database() as url:
        os.environ["DATABASE_URL"] = url
        if verb == "up":
            command.upgrade(config, revision or "head")
        else:
            command.downgrade(config, revision or "-1")


def main() -> int:
    """Parse the arguments, and run the command."""
    parser = argparse.ArgumentParser(prog="scripts/migrate", description="Makes migrations and runs them.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("new", help="write a migration for what has changed in the models").add_argument("message")
    verbs.add_parser("merge", help="join two newest migrations, after an upgrade of the template")
    verbs.add_parser("up", help="to the newest").add_argument("revision", nargs="?")
    verbs.add_parser("down", help="one step back").add_argument("revision", nargs="?")
    verbs.add_parser("sql", help="print the SQL").add_argument("range", nargs="?", default="head")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("ENVIRONMENT", "development")  # readable on a terminal
    config = Config("alembic.ini")
    if arguments.verb == "new":
        new(config, arguments.message)
    elif arguments.verb == "merge":
        os.environ.setdefault("DATABASE_URL", OFFLINE)
        merge(config)
    elif arguments.verb == "sql":
        os.environ.setdefault("DATABASE_URL", OFFLINE)
        command.upgrade(config, arguments.range, sql=True)
    else:
        run(arguments.verb, config, arguments.revision)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CommandError, postgres.PostgresError) as error:
        sys.exit(f"migrate: {error}")
    except SQLAlchemyError as error:
        reason = re.split(r"\n", str(getattr(error, "orig", None) or error), maxsplit=1)[0]
        sys.exit(f"migrate: the database said: {reason}")
