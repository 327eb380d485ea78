"""`/items/{item_id}/stock`: what the inventory service says."""

from typing import Annotated

import httpx2
from fastapi import Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from app.core.api import openapi
from app.core.api.router import APIRouter
from app.core.api.types import MAX_ID, Id, IdText
from app.core.client import Downstream
from app.core.config import Settings
from app.core.errors import DownstreamError, DownstreamTimeout, NotFound
from app.items.errors import ItemNotFound

router = APIRouter(prefix="/items", tags=["items"], scopes="items")

Quantity = Annotated[int, Field(ge=0, le=MAX_ID, examples=[12])]


class Stock(BaseModel):
    """How many of an item there are."""

    item_id: Id
    quantity: Quantity


class _Level(BaseModel):
    """What we need of the inventory's answer; it may say more. Strict: `true`, `1.0` and `"1"` are no quantity."""

    model_config = ConfigDict(strict=True)

    quantity: Quantity


def inventory_of(settings: Settings, pool: httpx2.AsyncClient | None) -> Downstream | None:
    """Make the inventory service, if there is one."""
    return Downstream("inventory", str(settings.inventory_url), pool) if pool and settings.inventory_url else None


async def _inventory(request: Request) -> Downstream:
    inventory: Downstream | None = request.app.state.inventory
    if inventory is None:
        raise NotFound
    return inventory


@router.get("/{item_id}/stock", responses=openapi.errors(ItemNotFound, NotFound, DownstreamError, DownstreamTimeout))
async def get_stock(item_id: Annotated[IdText, Path()], inventory: Annotated[Downstream, Depends(_inventory)]) -> Stock:
    """Ask the inventory service how many of an item there are.

    Our own table is not asked: the two services share the ids, and an answer about stock should not depend on
    two stores. An item that the inventory does not know (its 404) is `ITEM_NOT_FOUND`.
    """
    level = await inventory.get(f"/stock/{item_id}", _Level)
    if level is None:
        raise ItemNotFound(item_id)
    return Stock(item_id=item_id, quantity=level.quantity)
