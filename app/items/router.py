"""`/items`: typed input, one unit of work, one answer."""

from typing import Annotated

from fastapi import Body, Path, Query, Request, Response

from app.core.api import openapi
from app.core.api.conditional_requests import Preconditions, entity_tag
from app.core.api.idempotency import Inserted, Key, Once
from app.core.api.pagination import link_to_next, split
from app.core.api.router import APIRouter
from app.core.api.types import IdText
from app.core.database import DB
from app.core.errors import DatabaseError, InvalidInput
from app.items import documentation, store
from app.items.errors import ItemNotFound
from app.items.schemas import Item, ItemBatch, ItemBatchCreate, ItemCreate, ItemPage, ItemPatch, ItemQuery

router = APIRouter(
    prefix="/items", tags=["items"], scopes="items", responses=openapi.errors(DatabaseError, InvalidInput)
)

PathId = Annotated[IdText, Path()]


def _answer(row: store.ItemRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = Item.model_validate(row).model_dump_json()
    return Response(content, status, {"ETag": entity_tag(row.version), **(headers or {})}, "application/json")


# The routes stand in the order in which they are asked for most: FastAPI tries one after the other.
@router.get("/{item_id}", response_model=Item, **documentation.GET_ITEM)
async def get_item(request: Request, item_id: PathId, db: DB) -> Response:
    """Read one item."""
    row = await store.get_items(db, item_id)
    if row is None:
        raise ItemNotFound(item_id)
    if Preconditions.of(request).not_modified(row.version):
        return Response(status_code=304, headers={"ETag": entity_tag(row.version)})
    return _answer(row)


@router.post("", status_code=201, response_model=Item, **documentation.CREATE_ITEM)
async def create_item(item: ItemCreate, key: Key, db: DB) -> Response:
    """Create an item."""
    once = Once.of(key, "POST /items", item)
    if once is None:
        inserted = Inserted([await store.insert_each(db, item)])
    else:
        inserted = await store.insert_items_once(db, [item], once)
    row = inserted.rows[0]
    return _answer(row, 201, {"Location": f"/items/{row.id}", **inserted.headers()})


@router.post("/batch", status_code=201, response_model=ItemBatch, **documentation.CREATE_ITEMS)
async def create_items(batch: ItemBatchCreate, key: Key, db: DB) -> Response:
    """Create many items: all or none, in the order sent."""
    once = Once.of(key, "POST /items/batch", batch)
    inserted = await (store.insert_items_once(db, batch.items, once) if once else store.insert_items(db, batch.items))
    content = ItemBatch.model_validate({"items": inserted.rows}).model_dump_json()
    return Response(content, 201, inserted.headers(), "application/json")


@router.get("", response_model=ItemPage, **documentation.LIST_ITEMS)
async def list_items(request: Request, query: Annotated[ItemQuery, Query()], db: DB) -> Response:
    """List items, a page at a time."""
    rows = await store.list_items(db, query)
    page, cursor = split(rows, query)
    content = ItemPage.model_validate({"items": page, "next_cursor": cursor}).model_dump_json()
    return Response(content, headers=link_to_next(request, cursor), media_type="application/json")


@router.patch("/{item_id}", response_model=Item, **documentation.PATCH_ITEM)
async def patch_item(
    request: Request,
    item_id: PathId,
    patch: Annotated[ItemPatch, Body()],
    db: DB,
) -> Response:
    """Change an item by a JSON merge patch (RFC 7396)."""
    conditions = Preconditions.of(request)
    return _answer(await store.update_item(db, item_id, patch, conditions))


@router.delete("/{item_id}", status_code=204, response_class=Response, **documentation.DELETE_ITEM)
async def delete_item(request: Request, item_id: PathId, db: DB) -> Response:
    """Delete an item."""
    conditions = Preconditions.of(request)
    await store.delete_item(db, item_id, conditions)
    return Response(status_code=204)
