"""Limit the size of request bodies."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.error_responses import response_for
from app.core.errors import Overloaded, PayloadTooLarge, UnsupportedMediaType
from app.core.lifecycle import ASKED_FOR_BODY, BODY_DISCARDED
from app.core.middleware.limits.forms import form_receive
from app.core.middleware.limits.turns import LARGE, Turns
from app.core.middleware.request import REACHED_APP
from app.core.middleware.route_table import RouteTable


class BodyLimitMiddleware:
    """Rejects a body that is too large, declared or chunked (RFC 9110, section 15.5.14).

    A route sets a limit of its own as FastAPI documents it, `@router.post("", max_body_size=...)`; FastAPI by itself
    would run a handler that does not read the body, and answer text/plain.

    Parameters
    ----------
    app
        The application.
    max_body_bytes
        The limit for every other route.
    routes
        Where the routes' own limits are found.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, routes: RouteTable) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.routes = routes
        self._turns = Turns(max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = None
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                declared = int(value)
                break
        limit = self.routes.body_limit(scope["method"], scope["path"], self.max_body_bytes)
        if declared is not None and declared > limit:
            # Without `Connection: close`: a client that sends all before it reads would get a reset instead of this.
            await response_for(scope, PayloadTooLarge())(scope, receive, send)
            return
        scope[REACHED_APP], scope[ASKED_FOR_BODY] = True, False
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            _note_asked(scope)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise PayloadTooLarge
            return message

        # A body without a length is chunked. A route with a higher limit of its own reads its body in parts.
        small = scope["method"] in {"GET", "HEAD"} if declared is None else declared <= LARGE
        body: Receive = limited_receive
        if declared or not small:
            try:
                body = form_receive(scope, limited_receive)
            except UnsupportedMediaType as error:
                await response_for(scope, error)(scope, receive, send)
                return
        if small or limit > self.max_body_bytes:
            await self.app(scope, body, send)
        else:
            await self._serve_in_turn(scope, body, send)

    async def _serve_in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; from the end of a large body to the beginning of its response it has a turn."""
        received, taken = 0, 0

        async def receive_in_turn() -> Message:
            nonlocal received, taken
            message = await receive()
            received += len(message.get("body", b""))
            if received > LARGE and message["type"] == "http.request" and not message.get("more_body", False):
                taken = await self._turns.take(received)
            return message

        async def send_after_turn(message: Message) -> None:
            end_turn()
            await send(message)

        def end_turn() -> None:
            nonlocal taken
            size, taken = taken, 0
            self._turns.give(size)

        try:
            await self.app(scope, receive_in_turn, send_after_turn)
        finally:
            end_turn()


def _note_asked(scope: Scope) -> None:
    scope[ASKED_FOR_BODY] = True
    if BODY_DISCARDED in scope:
        raise Overloaded
