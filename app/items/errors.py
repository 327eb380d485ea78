"""What can go wrong with an item."""

from app.core.errors import APIError


class ItemNotFound(APIError):
    """There is no such item (any more)."""

    code, status, default_message = "ITEM_NOT_FOUND", 404, "Item 7 not found"

    def __init__(self, item_id: int) -> None:
        super().__init__(f"Item {item_id} not found")
