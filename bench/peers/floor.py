"""FastAPI without a database: the lower limit of what a request costs."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from bench.peers.common import AccessMiddleware, Item, ItemCreate, ItemPage, ItemPatch, add_operations

app = FastAPI()
app.add_middleware(AccessMiddleware)
NOW = datetime.now(UTC)


def item_of(item_id: int, name: str = "Item1", price: Decimal = Decimal("0.02")) -> Item:
    return Item(id=item_id, name=name, price=price, description=None, created_at=NOW, updated_at=NOW)


PAGE = ItemPage(items=[item_of(n) for n in range(1, 21)], next_cursor="MjA")


@app.get("/items/{item_id}")
async def get_item(item_id: Annotated[int, Path(ge=1, lt=2**63)], response: Response) -> Item:
    response.headers["ETag"] = '"1"'
    return item_of(item_id)


@app.post("/items", status_code=201)
async def create_item(item: ItemCreate, response: Response) -> Item:
    response.headers.update({"ETag": '"1"', "Location": "/items/1"})
    return item_of(1, item.name, item.price)


@app.get("/items")
async def list_items(limit: Annotated[int, Query(ge=1, le=100)] = 20, cursor: str | None = None) -> ItemPage:
    return PAGE


@app.patch("/items/{item_id}")
async def patch_item(item_id: Annotated[int, Path(ge=1, lt=2**63)], patch: ItemPatch, response: Response) -> Item:
    response.headers["ETag"] = '"2"'
    return item_of(item_id)


add_operations(app)
