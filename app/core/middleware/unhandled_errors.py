"""Answer 500 for exceptions that nothing else handled."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import InternalError, response_for

_log = logging.getLogger(__name__)


class UnhandledErrorMiddleware:
    """The last resort: answers 500 for whatever nobody caught.

    Starlette's own handler for `Exception` runs outside of all middleware, without the trace id. This one stands
    inside of CORS, or a browser would not show its page the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, note_start)
        except Exception:
            _log.exception("unhandled error")
            if scope["type"] != "http" or started:
                raise  # too late for another answer: the server cuts the connection
            await response_for(scope, InternalError())(scope, receive, send)
