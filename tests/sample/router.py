"""`/things`, and what another service says of one of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict

from app.core.api import APIRouter, Batch, Conditions, IdempotencyKey, Links, Page, errors
from app.core.api.types import IdText
from app.core.client import Downstream, new_pool
from app.core.config import EnvironmentSettings, ServiceURL, load
from app.core.database import DB
from tests.sample.things import Thing, ThingCreate, ThingNotFound, ThingPatch, ThingQuery, things

router = APIRouter(prefix="/things", tags=["things"], scopes="things")


@router.get("/{thing_id}", response_model=Thing, responses=errors(ThingNotFound))
async def get_thing(thing_id: IdText, db: DB, conditions: Conditions) -> object:
    """Read one thing."""
    return conditions.checked(await things.get(db, thing_id))


@router.post("", status_code=201, response_model=Thing)
async def create_thing(thing: ThingCreate, db: DB, key: IdempotencyKey, conditions: Conditions) -> object:
    """Create a thing."""
    return conditions.created(await things.insert(db.once(key), thing))


@router.post("/batch", status_code=201, response_model=Batch[Thing])
async def create_things(batch: Batch[ThingCreate], db: DB, key: IdempotencyKey) -> object:
    """Create many things: all or none, in the order sent."""
    return {"items": await things.insert_many(db.once(key), batch.items)}


@router.get("", response_model=Page[Thing])
async def list_things(query: Annotated[ThingQuery, Query()], db: DB, links: Links) -> object:
    """List things, a page at a time."""
    return links.checked(await things.list(db, query))


@router.patch("/{thing_id}", response_model=Thing, responses=errors(ThingNotFound))
async def patch_thing(thing_id: IdText, patch: ThingPatch, db: DB, conditions: Conditions) -> object:
    """Change a thing by a JSON merge patch."""
    return conditions.checked(await things.update(db, thing_id, patch, conditions))


@router.delete("/{thing_id}", status_code=204, responses=errors(ThingNotFound))
async def delete_thing(thing_id: IdText, db: DB, conditions: Conditions) -> None:
    """Delete a thing."""
    await things.delete(db, thing_id, conditions)


class WarehouseSettings(EnvironmentSettings):
    """Where the other service is; without `WAREHOUSE_URL` there is no stock."""

    warehouse_url: ServiceURL | None = None


class Stock(BaseModel):
    """How many of a thing there are."""

    model_config = ConfigDict(strict=True)

    quantity: int


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with new_pool() as pool:
        if app.state.telemetry is not None:
            app.state.telemetry.trace_calls(pool)
        app.state.warehouse = Downstream("warehouse", str(load(WarehouseSettings).warehouse_url), pool)
        yield


stock_router = APIRouter(prefix="/things", tags=["things"], scopes="things", lifespan=_lifespan)
"""Included only where `WAREHOUSE_URL` is set."""


async def _warehouse(request: Request) -> Downstream:
    warehouse: Downstream = request.app.state.warehouse
    return warehouse


@stock_router.get("/{thing_id}/stock")
async def get_stock(thing_id: IdText, warehouse: Annotated[Downstream, Depends(_warehouse)]) -> Stock:
    """Ask the other service how many of a thing there are."""
    stock = await warehouse.get(f"/stock/{thing_id}", Stock)
    if stock is None:
        raise ThingNotFound(thing_id)
    return stock
