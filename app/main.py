"""The application: what it is composed of, in which order."""

from typing import Any

from fastapi import FastAPI

from app.core.api.openapi import swagger_ui
from app.core.application import Application
from app.core.config import Settings, load, load_settings
from app.core.observability import metrics_endpoint
from app.health import router as health
from app.items import router as items
from app.items import stock
from app.items.settings import InventorySettings


def create_app(settings: Settings | None = None, **options: Any) -> FastAPI:  # noqa: ANN401 - FastAPI's own
    """Compose the service.

    Parameters
    ----------
    settings
        By default those of the environment.
    options
        Further arguments of `FastAPI`, such as `dependencies=[...]` for every route.
    """
    settings = settings or load_settings()
    app = Application(settings, **options)

    # Features, the busiest first: FastAPI tries one router after the other.
    app.include_router(items.router)
    if load(InventorySettings).inventory_url is not None:
        app.include_router(stock.router)

    # The platform's own.
    app.include_router(health.router)
    app.include_router(metrics_endpoint.router)
    if settings.docs_enabled:
        app.include_router(swagger_ui.router)
    return app


app = create_app()
