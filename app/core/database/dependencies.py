"""What a handler asks for: `read: Read`, `write: Write` and their kin, each a way to run a unit of work."""

from typing import Annotated

from fastapi import Depends, Request

from app.core.database.unit_of_work import Database, ReadSession, ReadTogether, WriteSession, WriteTogether


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _read(request: Request) -> ReadSession:
    return _database(request).read


async def _read_together(request: Request) -> ReadTogether:
    return _database(request).read_together


async def _write(request: Request) -> WriteSession:
    return _database(request).write


async def _write_together(request: Request) -> WriteTogether:
    return _database(request).write_together


async def _repeatable_write(request: Request) -> WriteSession:
    return _database(request).repeatable_write


async def _transaction(request: Request) -> WriteSession:
    return _database(request).transaction


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
