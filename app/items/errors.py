"""What can go wrong with an item."""

from app.core.errors import ResourceNotFound


class ItemNotFound(ResourceNotFound):
    """There is no such item (any more)."""

    code, resource = "ITEM_NOT_FOUND", "Item"
