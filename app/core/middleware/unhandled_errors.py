"""Answer 500 for exceptions that nothing else handled."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.core.errors import InternalError, response_for

_log = logging.getLogger(__name__)

_ACCEPTED = frozenset({"websocket.accept", "websocket.send"})
_INTERNAL_ERROR = 1011  # close code of RFC 6455, section 7.4.1


class UnhandledErrorMiddleware:
    """Answers 500 for any exception that was not handled, or closes the WebSocket with 1011.

    Starlette's own handler for `Exception` runs outside of all middleware, without the trace id. This one runs inside
    of CORS, or a browser would not show its page the response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        sent: str | None = None  # the type of the last message

        async def note_type(message: Message) -> None:
            nonlocal sent
            sent = message["type"]
            await send(message)

        try:
            await self.app(scope, receive, note_type)
        except WebSocketDisconnect:
            pass  # the client has gone, and the handler has nothing to do about it
        except Exception:
            _log.exception("unhandled error")
            if sent in _ACCEPTED:
                await send({"type": "websocket.close", "code": _INTERNAL_ERROR})
            elif sent is not None or scope["type"] == "lifespan":
                raise  # too late for another response: the server closes the connection
            else:
                await response_for(scope, InternalError())(scope, receive, send)
