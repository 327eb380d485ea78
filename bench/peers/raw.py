"""FastAPI with raw asyncpg: no ORM, no threads, prepared statements, pure ASGI middleware."""

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
from fastapi import FastAPI, Header, HTTPException, Path, Query, Response

from bench.peers.common import AccessMiddleware, Item, ItemCreate, ItemPage, ItemPatch, add_operations

COLUMNS = "id, name, price, description, created_at, updated_at, version"
GET = f"SELECT {COLUMNS} FROM items WHERE id = $1"
LIST = f"SELECT {COLUMNS} FROM items WHERE id > $1 ORDER BY id LIMIT $2"
INSERT = f"INSERT INTO items (name, price, description) VALUES ($1, $2, $3) RETURNING {COLUMNS}"
INSERT_ONCE = f"""
    WITH new AS ({INSERT}),
    stored AS (INSERT INTO idempotency_keys (key, fingerprint, rows) SELECT $4, $5, jsonb_agg(to_jsonb(new)) FROM new)
    SELECT {COLUMNS} FROM new"""
STORED = f"""
    SELECT k.fingerprint, {", ".join("i." + name for name in COLUMNS.split(", "))}
    FROM idempotency_keys AS k, jsonb_populate_recordset(NULL::items, k.rows) AS i WHERE k.key = $1"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10, command_timeout=5) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(AccessMiddleware)
ItemId = Annotated[int, Path(ge=1, lt=2**63)]


def answer(row: Any, response: Response) -> Item:
    if row is None:
        raise HTTPException(404, "Item not found")
    response.headers["ETag"] = f'"{row["version"]}"'
    return Item(**row)


@app.get("/items/{item_id}")
async def get_item(item_id: ItemId, response: Response) -> Item:
    return answer(await app.state.pool.fetchrow(GET, item_id), response)


@app.post("/items", status_code=201)
async def create_item(
    item: ItemCreate, response: Response, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
) -> Item:
    pool: asyncpg.Pool = app.state.pool
    values = (item.name, item.price, item.description)
    if idempotency_key is None:
        row = await pool.fetchrow(INSERT, *values)
    else:
        fingerprint = hashlib.sha256(item.model_dump_json().encode()).digest()
        try:
            row = await pool.fetchrow(INSERT_ONCE, *values, idempotency_key, fingerprint)
        except asyncpg.UniqueViolationError:
            row = await pool.fetchrow(STORED, idempotency_key)
            if row["fingerprint"] != fingerprint:
                raise HTTPException(422, "This Idempotency-Key was used for another request") from None
    response.headers["Location"] = f"/items/{row['id']}"
    return answer(row, response)


@app.get("/items")
async def list_items(limit: Annotated[int, Query(ge=1, le=100)] = 20, cursor: str | None = None) -> ItemPage:
    after = int(base64.urlsafe_b64decode(cursor + "==")) if cursor else 0
    rows = await app.state.pool.fetch(LIST, after, limit + 1)
    page = [Item(**row) for row in rows[:limit]]
    more = base64.urlsafe_b64encode(str(page[-1].id).encode()).rstrip(b"=").decode() if len(rows) > limit else None
    return ItemPage(items=page, next_cursor=more)


@app.patch("/items/{item_id}")
async def patch_item(item_id: ItemId, patch: ItemPatch, response: Response) -> Item:
    changes = patch.model_dump(exclude_unset=True)
    changes = {name: getattr(patch, name) for name in changes}
    sets = "".join(f"{name} = ${number}, " for number, name in enumerate(changes, 2))
    statement = f"UPDATE items SET {sets}version = version + 1, updated_at = now() WHERE id = $1 RETURNING {COLUMNS}"
    return answer(await app.state.pool.fetchrow(statement, item_id, *changes.values()), response)


add_operations(app)
