"""Match a request once, and call the handler at once.

FastAPI tries one route after the other, matches that of an included router a second time, and opens three exit stacks
around each handler. A handler that `app.core.api.router.APIRoute` calls by a plan needs none of this (docs/adr/0016-*).
"""

import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import Request, Response
from fastapi.routing import RouteContext
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.error_responses import response_for
from app.core.errors import MethodNotAllowed
from app.core.middleware.route_table import TEMPLATE, RouteTable

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_ERROR = "app.error"


class DirectMiddleware:
    """Calls the handlers that need no more than a request, and leaves other requests to FastAPI. The innermost one.

    It answers 405 if a concrete path lacks the method, before a template could match the path.

    Parameters
    ----------
    app
        The application.
    routes
        Its routes.
    handlers
        Its exception handlers, but for the last resort.
    """

    def __init__(self, app: ASGIApp, routes: RouteTable, handlers: Mapping[Any, Any]) -> None:
        self.app = app
        self.routes = routes
        self._handle_error = ExceptionMiddleware(_raise, handlers)
        self._contexts: Sequence[RouteContext] = ()
        self._candidates: list[_Candidate] = []
        self._templated: list[_Candidate] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Without this, `GET /things/batch` would be taken for `GET /things/{thing_id}`.
        methods = self.routes.methods.get(scope["path"])
        if methods is not None and scope["method"] not in methods:
            allow = ", ".join(self.routes.allowed_methods(scope["path"]))
            await response_for(scope, MethodNotAllowed(headers={"Allow": allow}))(scope, receive, send)
            return
        handler = self._find(scope, concrete=methods is not None)
        if handler is None:
            await self.app(scope, receive, send)
            return
        try:
            response = await handler(Request(scope, receive, send))
        except Exception as error:  # noqa: BLE001 - `ExceptionMiddleware` raises it again where nothing handles it
            scope[_ERROR] = error
            await self._handle_error(scope, receive, send)
            return
        await response(scope, receive, send)

    def _find(self, scope: Scope, *, concrete: bool) -> Handler | None:
        """Match a request; return the handler and note the route as FastAPI does, or return None for FastAPI to do so.

        Mounted applications and traced requests are FastAPI's.
        """
        if "router" in scope or scope["root_path"] or "fastapi.telemetry" in scope:
            return None
        if self._contexts is not self.routes.contexts:
            self._contexts = self.routes.contexts
            self._candidates = list(_candidates(self._contexts))
            self._templated = [candidate for candidate in self._candidates if candidate.converters]
        path, method = scope["path"], scope["method"]
        for candidate in self._candidates if concrete else self._templated:
            if candidate.methods is None or method in candidate.methods:
                match = candidate.regex.match(path)
                if match is not None:
                    return _enter(candidate, match, scope)
        return None


class _Candidate(NamedTuple):
    """A route in the way of requests; `methods` is None if it serves any, and `handler` if FastAPI has to serve it."""

    regex: re.Pattern[str]
    methods: Collection[str] | None
    converters: Mapping[str, Any]
    handler: Handler | None
    overridable: Any  # has `dependency_overrides`
    notes: Mapping[str, Any]  # of the scope
    effective: RouteContext


def _candidates(routes: Sequence[RouteContext]) -> Iterator[_Candidate]:
    for route in routes:
        if isinstance(route.original_route, WebSocketRoute):
            continue
        if route.path is None:  # `Host`, for one: what comes after it is for FastAPI to find
            return
        handler = getattr(route, "short_way", None)
        provider = handler and route.dependency_overrides_provider
        if provider is None or route.max_body_size is not None:
            handler = None
        notes = {"endpoint": route.endpoint, "route": route.original_route, TEMPLATE: route.path_format}
        yield _Candidate(route.path_regex, route.methods, route.param_convertors, handler, provider, notes, route)


def _enter(candidate: _Candidate, match: re.Match[str], scope: Scope) -> Handler | None:
    if candidate.handler is None or candidate.overridable.dependency_overrides:
        return None
    converters = candidate.converters
    scope["path_params"] = {name: converters[name].convert(text) for name, text in match.groupdict().items()}
    scope.update(candidate.notes, router=scope["app"].router, fastapi={"effective_route_context": candidate.effective})
    return candidate.handler


async def _raise(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise scope[_ERROR]
