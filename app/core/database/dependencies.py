"""What a handler asks for: `db: DB`."""

from typing import Annotated

from fastapi import Depends, Request

from app.core.database.database import Database


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


DB = Annotated[Database, Depends(_database)]
"""The database, for the functions of a store: `await store.get_item(db, item_id)`."""
