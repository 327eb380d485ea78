"""`/items`: typed input, one unit of work, one answer."""

from typing import Annotated

from fastapi import Query

from app.core.api import APIRouter, Batch, Conditions, IdempotencyKey, Links, Page, errors
from app.core.api.types import IdText
from app.core.database import DB
from app.core.errors import Conflict
from app.items.schemas import Item, ItemCreate, ItemPatch, ItemQuery
from app.items.store import ItemNotFound, items

router = APIRouter(prefix="/items", tags=["items"], scopes="items")


# The routes stand in the order in which they are asked for most: they are tried one after the other.
@router.get("/{item_id}", response_model=Item, responses=errors(ItemNotFound))
async def get_item(item_id: IdText, db: DB, conditions: Conditions) -> object:
    """Read one item."""
    return conditions.checked(await items.get(db, item_id))


@router.post("", status_code=201, response_model=Item)
async def create_item(item: ItemCreate, db: DB, key: IdempotencyKey, conditions: Conditions) -> object:
    """Create an item."""
    return conditions.created(await items.insert(db.once(key), item))


@router.post("/batch", status_code=201, response_model=Batch[Item])
async def create_items(batch: Batch[ItemCreate], db: DB, key: IdempotencyKey) -> object:
    """Create many items: all or none, in the order sent."""
    return {"items": await items.insert_many(db.once(key), batch.items)}


@router.get("", response_model=Page[Item])
async def list_items(query: Annotated[ItemQuery, Query()], db: DB, links: Links) -> object:
    """List items, a page at a time."""
    return links.checked(await items.list(db, query))


@router.patch("/{item_id}", response_model=Item, responses=errors(ItemNotFound))
async def patch_item(item_id: IdText, patch: ItemPatch, db: DB, conditions: Conditions) -> object:
    """Change an item by a JSON merge patch (RFC 7396)."""
    return conditions.checked(await items.update(db, item_id, patch, conditions))


@router.delete("/{item_id}", status_code=204, responses=errors(ItemNotFound, Conflict))
async def delete_item(item_id: IdText, db: DB, conditions: Conditions) -> None:
    """Delete an item."""
    await items.delete(db, item_id, conditions)
