"""Answer 500 for exceptions that nothing else handled."""

import inspect
import logging
import traceback
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.status import WS_1003_UNSUPPORTED_DATA, WS_1011_INTERNAL_ERROR
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.core.error_responses import handle_unexpected_error

_log = logging.getLogger(__name__)

_ACCEPTED = frozenset({"websocket.accept", "websocket.send"})
_RECEIVE = {method.__code__ for method in (WebSocket.receive_text, WebSocket.receive_bytes, WebSocket.receive_json)}


class UnhandledErrorMiddleware:
    """Answers any exception that was not handled, or closes the WebSocket with 1011; with 1003 for a bad message.

    `@app.exception_handler(Exception)` makes the response. Starlette calls that handler outside of all middleware;
    here it runs inside of CORS, or a browser would not show its page the response.
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
        except (ClientDisconnect, WebSocketDisconnect):
            pass  # the client has disconnected, which needs no handling
        except Exception as error:
            if scope["type"] == "lifespan" or (sent is not None and sent not in _ACCEPTED):
                raise  # too late for another response: the server logs the error and closes the connection
            if sent is not None and _is_bad_message(error):
                await send({"type": "websocket.close", "code": WS_1003_UNSUPPORTED_DATA})
                return
            _log.exception("unhandled error")
            if sent is not None:
                await send({"type": "websocket.close", "code": WS_1011_INTERNAL_ERROR})
            else:
                response = await _response_of(scope, receive, error)
                await response(scope, receive, send)


def _is_bad_message(error: Exception) -> bool:
    """Return whether a WebSocket's message was not what the handler receives: Starlette does not check that."""
    if not isinstance(error, KeyError | ValueError | RecursionError):
        return False
    return any(frame.f_code in _RECEIVE for frame, _ in traceback.walk_tb(error.__traceback__))


async def _response_of(scope: Scope, receive: Receive, error: Exception) -> Response:
    request = Request({**scope, "type": "http"}, receive)
    handlers = scope["app"].exception_handlers if scope["type"] == "http" else {}
    handler: Any = handlers.get(500) or handlers.get(Exception) or handle_unexpected_error
    if inspect.iscoroutinefunction(handler):
        response: Response = await handler(request, error)
        return response
    return await run_in_threadpool(handler, request, error)
