"""The items in the database, and what can go wrong with them."""

from sqlalchemy import bindparam

from app.core.errors import ResourceNotFound
from app.core.resources import Resource, begins_with
from app.items.models import Item
from app.items.schemas import ItemCreate, ItemPatch, ItemQuery


class ItemNotFound(ResourceNotFound):
    """There is no such item (any more)."""


items = Resource(
    Item,
    create=ItemCreate,
    patch=ItemPatch,
    query=ItemQuery,
    filters={
        "name": begins_with(Item.name),
        "min_price": Item.price >= bindparam("min_price"),
        "max_price": Item.price <= bindparam("max_price"),
    },
    not_found=ItemNotFound,
)
