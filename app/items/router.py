"""`/items`: typed input, one unit of work, one answer."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from app.core import openapi
from app.core.database import CoalescedRead, CoalescedWrite, Read, RepeatableWrite, Transaction, Write
from app.core.errors import DatabaseError, InvalidInput, PayloadTooLarge, UnsupportedMediaType
from app.core.json_body import MERGE_PATCH_JSON, JSONRoute
from app.core.preconditions import Conditions, PreconditionFailed, entity_tag
from app.core.query import StrictQuery
from app.items import store
from app.items.errors import ItemNotFound
from app.items.idempotency import IdempotencyKeyInUse, IdempotencyKeyReused, Key, Once
from app.items.paging import cursor_after
from app.items.schemas import Item, ItemBatch, ItemBatchCreate, ItemCreate, ItemId, ItemPage, ItemPatch, ItemQuery

router = APIRouter(
    prefix="/items", tags=["items"], route_class=JSONRoute, responses=openapi.errors(DatabaseError, InvalidInput)
)

PathId = Annotated[ItemId, Path()]

_ETAG = {"ETag": openapi.header("The entity tag: it changes whenever the item does", '"3"')}
_REPLAYED = {"Idempotent-Replayed": openapi.header("Sent with a repeated answer", "true")}
_LOCATION = {"Location": openapi.header("Path of the new item", "/items/7")}
_LINK = {"Link": openapi.header("The next page, while there is one", '</items?cursor=...>; rel="next"')}
_IF_MATCH = {"If-Match": "$response.header.ETag"}
_THIS = {"item_id": "$response.body#/id"}
_LEADS_TO = {
    "get": openapi.link("get_item", "Read the item", **_THIS),
    "patch": openapi.link("patch_item", "Change it unless it has changed", **_THIS, **_IF_MATCH),
    "delete": openapi.link("delete_item", "Delete it unless it has changed", **_THIS, **_IF_MATCH),
    "stock": openapi.link("get_stock", "Ask how many there are", **_THIS),
}
_BODY_ERRORS = openapi.errors(InvalidInput, PayloadTooLarge, UnsupportedMediaType)
_CREATE_ERRORS = {
    **_BODY_ERRORS,
    **openapi.errors(InvalidInput, IdempotencyKeyReused, IdempotencyKeyInUse),
}
_ITEM_ERRORS = openapi.errors(ItemNotFound)
_CHANGE_ERRORS = openapi.errors(ItemNotFound, PreconditionFailed)


def _answer(row: store.ItemRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = Item.of(row).model_dump_json()
    headers = {"ETag": entity_tag(row.version), **(headers or {})}
    return Response(content, status, headers, "application/json")


def _page(rows: Sequence[store.ItemRow]) -> list[Item]:
    return [Item.of(row) for row in rows]


@router.post(
    "",
    status_code=201,
    response_model=Item,
    responses={201: {"headers": _LOCATION | _ETAG | _REPLAYED, "links": _LEADS_TO}, **_CREATE_ERRORS},
)
async def create_item(item: ItemCreate, key: Key, write: CoalescedWrite, repeatable: RepeatableWrite) -> Response:
    """Create an item."""
    once = Once.of(key, "POST /items", item)
    if once is None:
        inserted = store.Inserted([await write(store.insert_each, item)])
    else:
        inserted = await repeatable(store.insert_items, [item], once)
    row = inserted.rows[0]
    return _answer(row, 201, {"Location": f"/items/{row.id}", **_replayed(inserted)})


@router.post(
    "/batch",
    status_code=201,
    response_model=ItemBatch,
    responses={201: {"headers": _REPLAYED}, **_CREATE_ERRORS},
)
async def create_items(batch: ItemBatchCreate, key: Key, write: Write, repeatable: RepeatableWrite) -> Response:
    """Create many items: all or none, in the order sent."""
    once = Once.of(key, "POST /items/batch", batch)
    inserted = await (repeatable if once else write)(store.insert_items, batch.items, once)
    content = ItemBatch.model_construct(items=_page(inserted.rows)).model_dump_json()
    return Response(content, 201, _replayed(inserted), "application/json")


def _replayed(inserted: store.Inserted) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if inserted.replayed else {}


@router.get(
    "",
    response_model=ItemPage,
    responses={200: {"headers": _LINK}},
    dependencies=[StrictQuery],
)
async def list_items(request: Request, query: Annotated[ItemQuery, Query()], read: Read) -> Response:
    """List items, a page at a time."""
    rows = await read(store.list_items, query)
    page, more = rows[: query.limit], len(rows) > query.limit
    cursor = cursor_after(page[-1], query) if more else None
    headers = {"Link": f'<{request.url.include_query_params(cursor=cursor)}>; rel="next"'} if more else None
    content = ItemPage.model_construct(items=_page(page), next_cursor=cursor).model_dump_json()
    return Response(content, headers=headers, media_type="application/json")


@router.get(
    "/{item_id}",
    response_model=Item,
    responses={
        200: {"headers": _ETAG},
        304: {"description": "Not Modified", "headers": _ETAG},
        **_ITEM_ERRORS,
    },
)
async def get_item(item_id: PathId, conditions: Conditions, read: CoalescedRead) -> Response:
    """Read one item."""
    row = await read(store.get_items, item_id)
    if row is None:
        raise ItemNotFound(item_id)
    if conditions.not_modified(row.version):
        return Response(status_code=304, headers={"ETag": entity_tag(row.version)})
    return _answer(row)


@router.patch(
    "/{item_id}",
    response_model=Item,
    responses={200: {"headers": _ETAG}, **_BODY_ERRORS, **_CHANGE_ERRORS},
    openapi_extra=openapi.also_accepts(MERGE_PATCH_JSON, "ItemPatch"),
)
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


@router.delete("/{item_id}", status_code=204, response_class=Response, responses=_CHANGE_ERRORS)
async def delete_item(item_id: PathId, conditions: Conditions, write: Write, transaction: Transaction) -> None:
    """Delete an item."""
    session = transaction if conditions else write
    await session(store.delete_item, item_id, conditions)
