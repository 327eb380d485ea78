"""`/items`: typed input, one unit of work, one answer."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from app.core.database import Read, RepeatableWrite, Transaction, Write
from app.core.json_body import JSONRoute
from app.core.preconditions import Conditions, entity_tag
from app.items import store
from app.items.idempotency import Key, Once
from app.items.paging import cursor_after
from app.items.schemas import Item, ItemBatch, ItemBatchCreate, ItemCreate, ItemId, ItemPage, ItemPatch, ItemQuery

router = APIRouter(prefix="/items", tags=["items"], route_class=JSONRoute)

PathId = Annotated[ItemId, Path()]


def _answer(row: store.ItemRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = Item.of(row).model_dump_json()
    headers = {"ETag": entity_tag(row.version), **(headers or {})}
    return Response(content, status, headers, "application/json")


def _page(rows: Sequence[store.ItemRow]) -> list[Item]:
    return [Item.of(row) for row in rows]


@router.post("", status_code=201, response_model=Item)
async def create_item(item: ItemCreate, key: Key, write: Write, repeatable: RepeatableWrite) -> Response:
    """Create an item."""
    once = Once.of(key, "POST /items", item)
    inserted = await (repeatable if once else write)(store.insert_items, [item], once)
    row = inserted.rows[0]
    headers = {"Location": f"/items/{row.id}", **_replayed(inserted)}
    return _answer(row, 201, headers)


@router.post("/batch", status_code=201, response_model=ItemBatch)
async def create_items(batch: ItemBatchCreate, key: Key, write: Write, repeatable: RepeatableWrite) -> Response:
    """Create many items: all or none, in the order sent."""
    once = Once.of(key, "POST /items/batch", batch)
    inserted = await (repeatable if once else write)(store.insert_items, batch.items, once)
    content = ItemBatch.model_construct(items=_page(inserted.rows)).model_dump_json()
    return Response(content, 201, _replayed(inserted), "application/json")


def _replayed(inserted: store.Inserted) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if inserted.replayed else {}


@router.get("", response_model=ItemPage)
async def list_items(request: Request, query: Annotated[ItemQuery, Query()], read: Read) -> Response:
    """List items, a page at a time."""
    rows = await read(store.list_items, query)
    page, more = rows[: query.limit], len(rows) > query.limit
    cursor = cursor_after(page[-1], query) if more else None
    headers = {"Link": f'<{request.url.include_query_params(cursor=cursor)}>; rel="next"'} if more else None
    content = ItemPage.model_construct(items=_page(page), next_cursor=cursor).model_dump_json()
    return Response(content, headers=headers, media_type="application/json")


@router.get("/{item_id}", response_model=Item)
async def get_item(item_id: PathId, conditions: Conditions, read: Read) -> Response:
    """Read one item."""
    row = await read(store.get_item, item_id)
    if conditions.not_modified(row.version):
        return Response(status_code=304, headers={"ETag": entity_tag(row.version)})
    return _answer(row)


@router.patch("/{item_id}", response_model=Item)
async def patch_item(
    item_id: PathId,
    patch: Annotated[ItemPatch, Body()],
    conditions: Conditions,
    write: Write,
    transaction: Transaction,
) -> Response:
    """Change an item by a JSON merge patch (RFC 7396)."""
    session = transaction if conditions else write
    return _answer(await session(store.update_item, item_id, patch, conditions))


@router.delete("/{item_id}", status_code=204)
async def delete_item(item_id: PathId, conditions: Conditions, write: Write, transaction: Transaction) -> None:
    """Delete an item."""
    session = transaction if conditions else write
    await session(store.delete_item, item_id, conditions)
