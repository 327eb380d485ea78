"""Answer 405 for a method that a concrete path does not have."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.error_responses import response_for
from app.core.errors import MethodNotAllowed
from app.core.middleware.request import REACHED_APP
from app.core.middleware.route_table import RouteTable


class MethodMiddleware:
    """Answers 405 if a concrete path lacks the method, before a template could match the path."""

    def __init__(self, app: ASGIApp, routes: RouteTable) -> None:
        self.app = app
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and self.routes.rejects(scope["method"], scope["path"]):
            allow = ", ".join(self.routes.allowed_methods(scope["path"]))
            await response_for(scope, MethodNotAllowed(headers={"Allow": allow}))(scope, receive, send)
            return
        scope[REACHED_APP] = True
        await self.app(scope, receive, send)
