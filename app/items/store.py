"""The items in the database, and what can go wrong with them."""

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
        "min_price": lambda price: Item.price >= price,
        "max_price": lambda price: Item.price <= price,
    },
    not_found=ItemNotFound,
)
