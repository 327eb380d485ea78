"""The routes of the application as clients see them: whole templates, and the methods of a path."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import Scope

UNMATCHED = "unmatched"
TEMPLATE = "app.template"
"""Key in the scope of a request whose template `DirectMiddleware` has found."""


class RouteTable:
    """Answers questions about the routes of an application, including those added later.

    The template of a request comes from the route that served it, in the form that `include_router` gave it:
    `scope["route"].path` lacks the prefix since FastAPI 0.137.

    Attributes
    ----------
    contexts
        The routes in the order in which they are tried, when `methods` was last read; another list after one was added.
    """

    def __init__(self) -> None:
        self._app: Starlette | None = None
        self._lists: list[Sequence[BaseRoute]] = []
        self._lengths: list[int] = []
        self._methods: dict[str, set[str]] = {}
        self._patterns: list[tuple[Any, str]] = []
        self._mounts: list[_Mounted] = []
        self._limits: list[tuple[re.Pattern[str], set[str], int]] = []
        self._answer_head: set[str] = set()
        self.contexts: list[RouteContext] = []

    def attach(self, app: Starlette) -> None:
        """Set the application, whose middleware is made before it."""
        self._app = app

    @property
    def methods(self) -> dict[str, set[str]]:
        """The methods of each template."""
        if [*map(len, self._lists)] != self._lengths or not self._lists:
            self._fill()
        return self._methods

    def _fill(self) -> None:
        """Read the routes, for the first time or because one was added."""
        routes = self._app.routes if self._app is not None else []
        self._lists, self._methods, self._patterns = list(_lists(routes)), {}, []
        self._mounts, self._limits = _mounts(routes), []
        self._lengths = [*map(len, self._lists)]
        self.contexts = list(iter_route_contexts(routes))
        for context in self.contexts:
            if context.path_format is None:
                continue
            self._patterns.append((context.path_regex, context.path_format))
            if not isinstance(context.original_route, Mount):
                self._methods.setdefault(context.path_format, set()).update(context.methods or ())
            if (limit := getattr(context, "max_body_size", None)) is not None:
                self._limits.append((context.path_regex, context.methods or set(), limit))
        self._answer_head = {template for template, methods in self._methods.items() if "HEAD" in methods}
        for methods in self._methods.values():
            if "GET" in methods:
                methods.add("HEAD")

    def template(self, scope: Scope) -> str:
        """Return the template of the route that served a request, or `UNMATCHED`: never what the client sent."""
        known: str | None = scope.get(TEMPLATE)
        if known is not None:
            return known
        route = scope.get("route")
        if route is None:
            return self.template_of(scope["path"])  # rejected before routing, no route, or not a route of FastAPI
        # `_FASTAPI_SCOPE_KEY` and `_FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY` of `fastapi.routing`.
        context = scope.get("fastapi", _NOTHING).get("effective_route_context")
        if context is not None and context.original_route is route:
            route = context
        template: str = route.path_format
        return template if "app_root_path" not in scope else self._mounted_at(scope) + template

    def _mounted_at(self, scope: Scope) -> str:
        """Return the template of the path at which the application that served a request is mounted."""
        _ = self.methods
        mounts, template = self._mounts, ""
        path = scope["path"].removeprefix(scope["app_root_path"])
        end = len(path) - (len(scope["root_path"]) - len(scope["app_root_path"]))
        while len(path) > end:
            found = next(((mount, match) for mount in mounts if (match := mount.regex.match(path))), None)
            if found is None:
                return template
            mount, match = found
            mounts, template, path = mount.inside, template + mount.template, "/" + match["path"]
        return template

    def template_of(self, path: str) -> str:
        """Find the template that `path` belongs to, or `UNMATCHED`.

        A path without parameters goes before a template with them: "concrete definitions MUST be matched
        before their templated counterparts" (OpenAPI 3.1.1, section 4.8.8.2).
        """
        if path in self.methods:
            return path
        return next((template for regex, template in self._patterns if regex.match(path)), UNMATCHED)

    def allowed_methods(self, path: str) -> list[str]:
        """List every method of the resource at `path`, sorted (RFC 9110, section 10.2.1)."""
        return sorted(self.methods.get(self.template_of(path), ()))

    def answers_head(self, path: str) -> bool:
        """Return whether a route answers HEAD itself, as `@router.head()` says."""
        return bool(self.methods and self._answer_head) and self.template_of(path) in self._answer_head

    def body_limit(self, method: str, path: str, default: int) -> int:
        """Return the `max_body_size` of the route that serves a request, in bytes."""
        if not (self.methods and self._limits):
            return default
        matching = (limit for regex, methods, limit in self._limits if method in methods and regex.match(path))
        return next(matching, default)


_NOTHING: dict[str, Any] = {}


class _Mounted(NamedTuple):
    regex: re.Pattern[str]
    template: str
    inside: "list[_Mounted]"


def _mounts(routes: Sequence[BaseRoute]) -> list[_Mounted]:
    return [
        _Mounted(context.path_regex, (context.path_format or "").removesuffix("/{path}"), _mounts(mount.routes or []))
        for context in iter_route_contexts(routes)
        if isinstance(mount := context.original_route, Mount)
    ]


def _lists(routes: Sequence[BaseRoute]) -> Iterator[Sequence[BaseRoute]]:
    """List the routes themselves and those of every included router: each may grow."""
    yield routes
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from _lists(router.routes)
