"""The database that a script uses: the one of DATABASE_URL, otherwise that of scripts/run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values

import postgres

ROOT = Path(__file__).resolve().parents[2]


def given() -> str | None:
    """Read `DATABASE_URL` from the environment or `.env`; names are case-insensitive, an empty value is unset."""
    variables = {**dotenv_values(ROOT / ".env"), **os.environ}
    return next((value for name, value in variables.items() if value and name.upper() == "DATABASE_URL"), None)


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL of the database; the embedded one runs at least as long as the block.

    Raises
    ------
    PostgresError
        There is no PostgreSQL, or it does not start.
    """
    url = given()
    if url is not None:
        yield url
        return
    with postgres.running(postgres.DATA) as url:
        yield url
