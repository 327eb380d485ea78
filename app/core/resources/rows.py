"""The rows that the functions of a resource return."""

from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Table


@cache
def row_class(table: Table) -> type[tuple[Any, ...]]:
    """Make the class of a table's rows: SQLAlchemy's `Row` takes three times as long to find an attribute."""
    columns = {key: property(itemgetter(number)) for number, key in enumerate(table.c.keys())}
    return type("Row", (tuple,), {"__slots__": (), **columns})
