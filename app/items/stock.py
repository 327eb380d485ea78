"""`/items/{item_id}/stock`: what the inventory service says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from app.core.api import APIRouter, errors
from app.core.api.types import MAX_ID, Id, IdText
from app.core.client import Downstream, new_pool
from app.core.config import load
from app.core.errors import DownstreamError, DownstreamTimeout
from app.items.settings import InventorySettings
from app.items.store import ItemNotFound


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the connections to the inventory service.

    Its client reads the certificates of authorities, which takes 50 ms and more, and 3 to 7 MB.
    """
    url = load(InventorySettings).inventory_url
    async with new_pool() as pool:
        if app.state.telemetry is not None:
            app.state.telemetry.trace_calls(pool)
        app.state.inventory = Downstream("inventory", str(url), pool)
        yield


router = APIRouter(prefix="/items", tags=["items"], scopes="items", lifespan=_lifespan)
"""Included only where `INVENTORY_URL` is set."""

Quantity = Annotated[int, Field(ge=0, le=MAX_ID, examples=[12])]


class Stock(BaseModel):
    """How many of an item there are."""

    item_id: Id
    quantity: Quantity


class _Level(BaseModel):
    """What we need of the inventory's answer; it may say more. Strict: `true`, `1.0` and `"1"` are no quantity."""

    model_config = ConfigDict(strict=True)

    quantity: Quantity


async def _inventory(request: Request) -> Downstream:
    inventory: Downstream = request.app.state.inventory
    return inventory


@router.get("/{item_id}/stock", responses=errors(ItemNotFound, DownstreamError, DownstreamTimeout))
async def get_stock(item_id: IdText, inventory: Annotated[Downstream, Depends(_inventory)]) -> Stock:
    """Ask the inventory service how many of an item there are.

    Our own table is not asked: the two services share the ids, and an answer about stock should not depend on
    two stores. An item that the inventory does not know (its 404) is `ITEM_NOT_FOUND`.
    """
    level = await inventory.get(f"/stock/{item_id}", _Level)
    if level is None:
        raise ItemNotFound(item_id)
    return Stock(item_id=item_id, quantity=level.quantity)
