"""Our service, with `GET /items/{id}` written in two more ways: what each choice costs."""

from sqlalchemy import Connection, Row, bindparam, select
from sqlalchemy.orm import Session

from app.core.api import APIRouter, Conditions
from app.core.api.types import IdText
from app.core.database import DB, read
from app.items.models import Item
from app.items.schemas import Item as ItemOut
from app.items.store import ItemNotFound
from app.main import create_app

_BY_ID = select(*Item.__table__.c).where(Item.id == bindparam("item_id"))


@read
def by_session(session: Session, item_id: int) -> Item:
    """Read an item by the ORM."""
    item = session.get(Item, item_id)
    if item is None:
        raise ItemNotFound(item_id)
    return item


@read
def alone(connection: Connection, item_id: int) -> Row[tuple[object, ...]]:
    """Read an item by a statement of its own."""
    row = connection.execute(_BY_ID, {"item_id": item_id}).one_or_none()
    if row is None:
        raise ItemNotFound(item_id)
    return row


router = APIRouter(tags=["choices"])


@router.get("/session/{item_id}", response_model=ItemOut)
async def get_by_session(item_id: IdText, db: DB, conditions: Conditions) -> object:
    """Read an item by the ORM."""
    return conditions.checked(await by_session(db, item_id))


@router.get("/alone/{item_id}", response_model=ItemOut)
async def get_alone(item_id: IdText, db: DB, conditions: Conditions) -> object:
    """Read an item by a statement of its own."""
    return conditions.checked(await alone(db, item_id))


app = create_app()
app.include_router(router)
