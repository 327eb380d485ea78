"""The application: what it is composed of, in which order."""

import logging.config
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.core.api import swagger_ui
from app.core.api.authentication import caller
from app.core.api.openapi_document import OperationIds, truthful
from app.core.api.unguarded_routes import UnguardedRoutesMiddleware
from app.core.auth.failures import NotStarted
from app.core.config import PROBE_PATHS, Settings, load, load_settings
from app.core.database import Database, HealthCheck
from app.core.error_responses import handle_http_error, handle_unexpected_error, handle_validation_error
from app.core.middleware.application import Application
from app.core.middleware.hosts import HostMiddleware
from app.core.middleware.limits.body import BodyLimitMiddleware
from app.core.middleware.limits.concurrency import ConcurrencyLimitMiddleware
from app.core.middleware.methods import MethodMiddleware
from app.core.middleware.operations_port import OperationsPortMiddleware
from app.core.middleware.route_table import RouteTable
from app.core.middleware.unhandled_errors import UnhandledErrorMiddleware
from app.core.observability import metrics_endpoint
from app.core.observability.logs import log_config
from app.core.observability.process_sampler import sample_process
from app.core.resources.periodic import purging
from app.health import router as health
from app.items import router as items
from app.items import stock
from app.items.settings import InventorySettings

# Requests in flight per worker beyond which it rejects (docs/reliability.md): a fraction of a second's work.
_IN_FLIGHT, _IN_FLIGHT_A_CONNECTION = 256, 32

# Paths that need no token where authentication is on.
_PUBLIC = PROBE_PATHS | swagger_ui.PATHS

if TYPE_CHECKING:
    from app.core.auth.tokens import Verifier
    from app.core.observability.opentelemetry import Telemetry


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what lives as long as the process; none of it needs the database to be up.

    A feature that needs something of its own has a lifespan in its router.
    """
    settings: Settings = app.state.settings
    telemetry = app.state.telemetry
    app.state.database = Database(settings, [telemetry.observe_statement] if telemetry else ())
    app.state.health_check = HealthCheck(settings)
    async with (
        sample_process(app.state.health_check.is_up),
        purging(app.state.database),
        _authentication(settings) as app.state.verifier,
    ):
        yield
    if telemetry is not None:
        await telemetry.stop()
    app.state.health_check.close()
    app.state.database.dispose()


@asynccontextmanager
async def _authentication(settings: Settings) -> "AsyncIterator[Verifier | None]":
    if settings.auth_issuer is None:
        yield None
        return
    from app.core.auth.verification import verification  # noqa: PLC0415 - what is off is not even imported

    async with verification(settings) as verifier:
        yield verifier


def _middleware(settings: Settings, routes: RouteTable) -> list[Middleware]:
    """List the middleware inside of `RequestMiddleware`, outermost first."""
    in_flight = max(_IN_FLIGHT, _IN_FLIGHT_A_CONNECTION * settings.db_pool_size)
    stack = []
    if settings.auth_issuer is not None:
        stack.append(Middleware(UnguardedRoutesMiddleware, public=_PUBLIC))
    if settings.ops_port is not None:
        stack.append(Middleware(OperationsPortMiddleware, port=settings.ops_port))
    if settings.trusted_hosts:
        stack.append(Middleware(HostMiddleware, allowed_hosts=settings.trusted_hosts, www_redirect=False))
    if settings.cors_origins:
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=[
                    "ETag",
                    "Idempotent-Replayed",
                    "Link",
                    "Location",
                    "Retry-After",
                    "X-Trace-ID",
                ],
            )
        )
    return [
        *stack,
        Middleware(UnhandledErrorMiddleware),
        Middleware(ConcurrencyLimitMiddleware, limit=in_flight, streams=settings.max_streams, routes=routes),
        Middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes, routes=routes),
        Middleware(MethodMiddleware, routes=routes),
    ]


def _telemetry(settings: Settings) -> "Telemetry | None":
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    from app.core.observability.opentelemetry import Telemetry  # noqa: PLC0415 - what is off is not even imported

    return Telemetry(settings)


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
    logging.config.dictConfig(log_config(settings))
    routes = RouteTable()
    telemetry = _telemetry(settings)
    options.setdefault("generate_unique_id_function", OperationIds())
    if settings.auth_issuer is not None:
        options["dependencies"] = [Security(caller), *options.get("dependencies", ())]
    app = Application(
        title=settings.service_name,
        version=__version__,
        lifespan=lifespan,
        middleware=_middleware(settings, routes),
        exception_handlers={
            HTTPException: handle_http_error,
            RequestValidationError: handle_validation_error,
            Exception: handle_unexpected_error,
        },
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,
        redoc_url=None,
        telemetry=telemetry.config if telemetry else {"tracing": False, "metrics": False, "logs": False},
        **options,
    )
    app.openapi = truthful(app)  # type: ignore[method-assign]  # as FastAPI documents it
    app.state.settings = settings
    app.state.telemetry = telemetry
    app.state.verifier = NotStarted() if settings.auth_issuer else None
    app.state.public = _PUBLIC
    app.state.routes = routes

    # The busiest first: FastAPI tries one router after the other.
    app.include_router(items.router)
    if load(InventorySettings).inventory_url is not None:
        app.include_router(stock.router)
    app.include_router(health.router)
    app.include_router(metrics_endpoint.router)
    if settings.docs_enabled:
        app.include_router(swagger_ui.router)

    routes.attach(app)
    return app


app = create_app()
