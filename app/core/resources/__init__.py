"""Tables as resources: rows by id, keyset pages, and what is done once, without SQL of a feature's own."""

from app.core.resources.pages import Pages, begins_with
from app.core.resources.resource import Resource

__all__ = ["Pages", "Resource", "begins_with"]
