"""The application that the tests of the platform ask: the service, with a resource that is only theirs.

So these tests stay as they are in a copy whose features are others.
"""

from typing import Any

from fastapi import FastAPI

from app import main
from app.core.config import Settings, load
from tests.sample.router import WarehouseSettings, router, stock_router


def create_app(settings: Settings | None = None, **options: Any) -> FastAPI:
    """Compose the service, and add the sample."""
    app = main.create_app(settings, **options)
    app.include_router(router)
    if load(WarehouseSettings).warehouse_url is not None:
        app.include_router(stock_router)
    return app


app = create_app()
