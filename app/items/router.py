"""`/items`: typed input, one unit of work, one answer."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from app.core.database import Read, Write
from app.core.json_body import JSONRoute
from app.items import store
from app.items.errors import ItemNotFound
from app.items.paging import cursor_after
from app.items.schemas import Item, ItemCreate, ItemId, ItemPage, ItemPatch, ItemQuery

router = APIRouter(prefix="/items", tags=["items"], route_class=JSONRoute)

PathId = Annotated[ItemId, Path()]


def _answer(row: store.ItemRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = Item.of(row).model_dump_json()
    return Response(content, status, headers, "application/json")


@router.post("", status_code=201, response_model=Item)
async def create_item(item: ItemCreate, write: Write) -> Response:
    """Create an item."""
    row = await write(store.insert_item, item)
    return _answer(row, 201, {"Location": f"/items/{row.id}"})


@router.get("", response_model=ItemPage)
async def list_items(request: Request, query: Annotated[ItemQuery, Query()], read: Read) -> Response:
    """List items, a page at a time."""
    rows = await read(store.list_items, query)
    page, more = rows[: query.limit], len(rows) > query.limit
    cursor = cursor_after(page[-1], query) if more else None
    headers = {"Link": f'<{request.url.include_query_params(cursor=cursor)}>; rel="next"'} if more else None
    content = ItemPage.model_construct(items=[Item.of(row) for row in page], next_cursor=cursor).model_dump_json()
    return Response(content, headers=headers, media_type="application/json")


@router.get("/{item_id}", response_model=Item)
async def get_item(item_id: PathId, read: Read) -> Response:
    """Read one item."""
    row = await read(store.get_item, item_id)
    if row is None:
        raise ItemNotFound(item_id)
    return _answer(row)


@router.patch("/{item_id}", response_model=Item)
async def patch_item(item_id: PathId, patch: Annotated[ItemPatch, Body()], write: Write) -> Response:
    """Change an item by a JSON merge patch."""
    row = await write(store.update_item, item_id, patch)
    if row is None:
        raise ItemNotFound(item_id)
    return _answer(row)


@router.delete("/{item_id}", status_code=204)
async def delete_item(item_id: PathId, write: Write) -> None:
    """Delete an item."""
    if not await write(store.delete_item, item_id):
        raise ItemNotFound(item_id)
