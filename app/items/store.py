"""The items in the database."""

from sqlalchemy import bindparam

from app.core.resources import Pages, Resource, begins_with
from app.items.errors import ItemNotFound
from app.items.models import Item
from app.items.schemas import ItemCreate, ItemPatch, ItemQuery

_items = Resource(Item, create=ItemCreate, patch=ItemPatch, not_found=ItemNotFound)
_pages = Pages(
    Item,
    ItemQuery,
    {
        "name": begins_with(Item.name),
        "min_price": Item.price >= bindparam("min_price"),
        "max_price": Item.price <= bindparam("max_price"),
    },
)

get_item, create_item, create_items = _items.get, _items.insert, _items.insert_many
update_item, delete_item, list_items = _items.update, _items.delete, _pages.read
