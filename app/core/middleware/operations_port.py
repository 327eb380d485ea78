"""Keep operations (probes, metrics, documentation) to `OPS_PORT`, and everything else to `PORT`."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.config import PROBE_PATHS
from app.core.error_responses import response_for
from app.core.errors import NotFound
from app.core.middleware.route_table import UNMATCHED

_DOCUMENTATION = frozenset({"/docs", "/redoc", "/openapi.json"})


class _NoRoute:
    """The route, in metrics and access log, of a path that exists only on the other port."""

    path_format = UNMATCHED


class OperationsPortMiddleware:
    """Answers 404 to a path of the other port.

    Both ports are listeners of the same workers, so only the port of its connection tells where a request belongs.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan" or (scope["server"][1] == self.port) == _is_operational(scope["path"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})  # before it is accepted: 403
        else:
            scope["route"] = _NoRoute
            await response_for(scope, NotFound())(scope, receive, send)


def _is_operational(path: str) -> bool:
    path = path.rstrip("/")  # a redirect to the path without it would tell that there is one
    return path in PROBE_PATHS or path in _DOCUMENTATION or path.startswith("/docs/")
