"""The application class: FastAPI's, with what surrounds the routes in every service."""

import logging.config
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app import __version__
from app.core.api.authentication import caller
from app.core.api.openapi import swagger_ui
from app.core.api.openapi.document import OperationIds, truthful
from app.core.api.unguarded_routes import UnguardedRoutesMiddleware
from app.core.auth.failures import NotStarted
from app.core.config import PROBE_PATHS, Settings
from app.core.database import Database, HealthCheck
from app.core.error_responses import handle_http_error, handle_unexpected_error, handle_validation_error
from app.core.middleware.direct import DirectMiddleware
from app.core.middleware.hosts import HostMiddleware
from app.core.middleware.limits.body import BodyLimitMiddleware
from app.core.middleware.limits.concurrency import ConcurrencyLimitMiddleware
from app.core.middleware.limits.forms import LONGEST_FIELD
from app.core.middleware.operations_port import OperationsPortMiddleware
from app.core.middleware.request import RequestMiddleware
from app.core.middleware.route_table import RouteTable
from app.core.middleware.unhandled_errors import UnhandledErrorMiddleware
from app.core.observability.logs import log_config
from app.core.observability.process_sampler import sample_process
from app.core.resources.periodic import purging

if TYPE_CHECKING:
    from app.core.auth.tokens import Verifier
    from app.core.observability.opentelemetry import Telemetry

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

# Requests in flight per worker beyond which it rejects (docs/reliability.md): a fraction of a second's work.
_IN_FLIGHT, _IN_FLIGHT_PER_CONNECTION = 256, 32
_EXPOSED = ["ETag", "Idempotent-Replayed", "Link", "Location", "Retry-After", "X-Trace-ID"]


class Application(FastAPI):
    """A FastAPI application with a database, errors of one form, limits, trace ids, an access log and metrics.

    Parameters
    ----------
    settings
        Those of the environment.
    lifespan, middleware, exception_handlers, dependencies
        As FastAPI documents them; they are added to the platform's own, and run inside of them.
    public
        Paths that need no token where authentication is on, beside probes, metrics and documentation.
    options
        Further arguments of `FastAPI`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        lifespan: Lifespan | None = None,
        middleware: Sequence[Middleware] = (),
        exception_handlers: Mapping[Any, Any] | None = None,
        dependencies: Sequence[Depends] = (),
        public: Collection[str] = (),
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> None:
        logging.config.dictConfig(log_config(settings))
        self._routes = RouteTable()
        self._settings = settings
        public = PROBE_PATHS | swagger_ui.PATHS | set(public)
        telemetry = _telemetry(settings)
        defaults: dict[str, Any] = {
            "title": settings.service_name,
            "version": __version__,
            "generate_unique_id_function": OperationIds(),
            "openapi_url": "/openapi.json" if settings.docs_enabled else None,
            "docs_url": None,  # `app.core.api.openapi.swagger_ui` serves them without another host's files
            "redoc_url": None,
            "form_limits": {"max_part_size": LONGEST_FIELD},
            "telemetry": telemetry.config if telemetry else {"tracing": False, "metrics": False, "logs": False},
        }
        super().__init__(
            lifespan=_around(lifespan),
            middleware=[*_middleware(settings, self._routes, public), *middleware, Middleware(self._direct)],
            exception_handlers={
                HTTPException: handle_http_error,
                RequestValidationError: handle_validation_error,
                Exception: handle_unexpected_error,
                **(exception_handlers or {}),
            },
            dependencies=[*([Security(caller)] if settings.auth_issuer is not None else []), *dependencies],
            **(defaults | options),
        )
        self._platforms = len(self.user_middleware)
        self.openapi = truthful(self)  # type: ignore[method-assign]  # as FastAPI documents it
        self.state.settings = settings
        self.state.telemetry = telemetry
        self.state.verifier = NotStarted() if settings.auth_issuer else None
        self.state.public = public
        self.state.routes = self._routes
        self._routes.attach(self)

    def build_middleware_stack(self) -> ASGIApp:
        """Wrap FastAPI's own stack.

        What `@app.middleware("http")` and `app.add_middleware` add is outside of the middleware that the application
        was made with; the trace id, the access line and the metrics belong outside of those, too.
        """
        stack = super().build_middleware_stack()
        if len(self.user_middleware) == self._platforms and not (
            self.state.telemetry or self.max_body_size or self.debug
        ):
            while not isinstance(stack, self.user_middleware[0].cls):  # type: ignore[arg-type]  # they are classes
                stack = stack.app  # type: ignore[attr-defined]  # FastAPI's own: ours answers all errors inside of them
        return RequestMiddleware(stack, self._routes, log_caller=self._settings.log_caller)

    def _direct(self, app: ASGIApp) -> ASGIApp:
        """Make the innermost middleware; the handlers are complete only when the stack is built."""
        handlers = {key: handler for key, handler in self.exception_handlers.items() if key not in {500, Exception}}
        return DirectMiddleware(app, routes=self._routes, handlers=handlers)


def _around(inner: Lifespan | None) -> Lifespan:
    """Return the platform's lifespan, with another one inside of it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with _platform(app):
            if inner is None:
                yield None
                return
            async with inner(app) as state:
                yield state

    return lifespan


@asynccontextmanager
async def _platform(app: FastAPI) -> AsyncIterator[None]:
    """Open what is used until the process ends; nothing here needs a reachable database."""
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
    from app.core.auth.tokens import verification  # noqa: PLC0415 - imported only if it is on

    async with verification(settings) as verifier:
        yield verifier


def _telemetry(settings: Settings) -> "Telemetry | None":
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    from app.core.observability.opentelemetry import Telemetry  # noqa: PLC0415 - imported only if it is on

    return Telemetry(settings)


def _middleware(settings: Settings, routes: RouteTable, public: Collection[str]) -> list[Middleware]:
    """List the middleware inside of `RequestMiddleware`, outermost first."""
    in_flight = max(_IN_FLIGHT, _IN_FLIGHT_PER_CONNECTION * settings.db_pool_size)
    stack = []
    if settings.auth_issuer is not None:
        stack.append(Middleware(UnguardedRoutesMiddleware, public=public))
    if settings.ops_port is not None:
        stack.append(Middleware(OperationsPortMiddleware, port=settings.ops_port))
    if settings.trusted_hosts:
        stack.append(Middleware(HostMiddleware, allowed_hosts=settings.trusted_hosts, www_redirect=False))
    if origins := settings.cors_origins:
        every = ["*"]
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=every,
                allow_headers=every,
                expose_headers=_EXPOSED,
            )
        )
    return [
        *stack,
        Middleware(UnhandledErrorMiddleware),
        Middleware(ConcurrencyLimitMiddleware, limit=in_flight, streams=settings.max_streams, routes=routes),
        Middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes, routes=routes),
    ]
