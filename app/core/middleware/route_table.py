"""The routes of the application as its clients see them: whole templates, and the methods of a path."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.types import Scope

UNMATCHED = "unmatched"


@dataclass
class RouteTable:
    """What can be asked of the routes, once they are filled in.

    `scope["route"].path` lacks the prefix of `include_router` since FastAPI 0.137, so templates are looked
    up by endpoint, in the contexts that FastAPI itself builds for the schema.
    """

    templates: dict[Callable[..., Any], str] = field(default_factory=dict)
    methods: dict[str, set[str]] = field(default_factory=dict)
    patterns: list[tuple[Any, str]] = field(default_factory=list)

    def fill(self, app: Starlette) -> None:
        """Read the routes off `app`, after the last one was added."""
        for context in iter_route_contexts(app.routes):
            if context.endpoint is None or context.path_format is None:
                continue
            self.templates[context.endpoint] = context.path_format
            methods = self.methods.setdefault(context.path_format, set())
            methods.update(context.methods or ())
            self.patterns.append((context.path_regex, context.path_format))
        for methods in self.methods.values():
            if "GET" in methods:
                methods.add("HEAD")

    def template(self, scope: Scope) -> str:
        """Name the template that took the request, or `UNMATCHED`: never what the client sent."""
        endpoint = scope.get("endpoint")
        if endpoint is not None:
            return self.templates.get(endpoint, UNMATCHED)
        return self.template_of(scope["path"])  # refused before routing (405, 413, 503), or nobody's

    def template_of(self, path: str) -> str:
        """Find the template that `path` belongs to, or `UNMATCHED`.

        A path without parameters goes before a template with them: "concrete definitions MUST be matched
        before their templated counterparts" (OpenAPI 3.1.1, section 4.8.8.2).
        """
        if path in self.methods:
            return path
        return next((template for regex, template in self.patterns if regex.match(path)), UNMATCHED)

    def allowed_methods(self, path: str) -> list[str]:
        """List every method of the resource at `path`, sorted (RFC 9110, section 10.2.1)."""
        return sorted(self.methods.get(self.template_of(path), ()))

    def refuses(self, method: str, path: str) -> bool:
        """Tell whether `path` is a concrete one that has no such method.

        Without this, `GET /things/batch` would be taken for `GET /things/{thing_id}`.
        """
        return path in self.methods and method not in self.methods[path]
