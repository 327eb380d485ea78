"""Routes without FastAPI's dependencies: mounted applications, and Starlette's own routes.

Where authentication is on, the application requires a token of every other route (`FastAPI(dependencies=)`), and
does not start with one of these that is neither `TokenRequired` nor public:

    app = create_app(public=["/static"])
    app.mount("/static", StaticFiles(directory="static"))
    app.mount("/reports", TokenRequired(reports, "reports:read"))
"""

from collections.abc import Collection, Iterator

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.api.authentication import AUTHENTICATING_STATE, caller


class TokenRequired:
    """An ASGI application behind authentication.

    Parameters
    ----------
    app
        The application, for `app.mount()` or Starlette's `Route`.
    scopes
        What the token must allow. A mounted FastAPI application may require more by `Security(caller, scopes=[...])`.
    """

    def __init__(self, app: ASGIApp, *scopes: str) -> None:
        self.app = app
        self.scopes = SecurityScopes([*scopes])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        await caller(HTTPConnection(scope), self.scopes)
        scope.setdefault(AUTHENTICATING_STATE, scope["app"].state)  # the mounted application replaces `app`
        await self.app(scope, receive, send)


class UnguardedRoutesMiddleware:
    """Prevents the start of an application with unguarded routes."""

    def __init__(self, app: ASGIApp, public: Collection[str]) -> None:
        self.app = app
        self.public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan" and (names := sorted(unguarded(scope["app"], self.public))):
            remedy = "use TokenRequired of app.core.api.unguarded_routes, or create_app(public=[...])"
            problem = f"authentication is on, but nothing asks for a token at {', '.join(names)}: {remedy}"
            await receive()
            await send({"type": "lifespan.startup.failed", "message": problem})
            raise RuntimeError(problem)
        await self.app(scope, receive, send)


def unguarded(app: FastAPI, public: Collection[str]) -> Iterator[str]:
    """List the paths, or hosts, that neither a dependency nor `TokenRequired` guards, and that are not public."""
    for route in iter_route_contexts(app.routes):
        name = route.path if route.path is not None else str(getattr(route, "host", route.name))
        has_dependencies = getattr(route, "dependant", None) is not None
        if not (has_dependencies or isinstance(getattr(route, "app", None), TokenRequired) or name in public):
            yield name
