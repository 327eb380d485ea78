"""What a handler asks for: `read: Read`, `write: Write` and their kin, each a way to run a unit of work."""

from typing import Annotated

from fastapi import Depends, Request

from app.core.database.sessions import Database, ReadSession, ReadTogether, WriteSession, WriteTogether


def database_of(request: Request) -> Database:
    """Find the application's database, for a handler that is too busy for a dependency (about 22 us each)."""
    database: Database = request.app.state.database
    return database


async def _read(request: Request) -> ReadSession:
    return database_of(request).read


async def _read_together(request: Request) -> ReadTogether:
    return database_of(request).read_together


async def _write(request: Request) -> WriteSession:
    return database_of(request).write


async def _write_together(request: Request) -> WriteTogether:
    return database_of(request).write_together


async def _repeatable_write(request: Request) -> WriteSession:
    return database_of(request).repeatable_write


async def _transaction(request: Request) -> WriteSession:
    return database_of(request).transaction


Read = Annotated[ReadSession, Depends(_read)]
"""A read."""
CoalescedRead = Annotated[ReadTogether, Depends(_read_together)]
"""A read that may share a statement with others."""
Write = Annotated[WriteSession, Depends(_write)]
"""One writing statement."""
CoalescedWrite = Annotated[WriteTogether, Depends(_write_together)]
"""One writing statement that may share a commit with others."""
RepeatableWrite = Annotated[WriteSession, Depends(_repeatable_write)]
"""One writing statement that does nothing the second time."""
Transaction = Annotated[WriteSession, Depends(_transaction)]
"""Several statements, all or none."""
