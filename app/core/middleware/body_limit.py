"""Limit the size of request bodies."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import PayloadTooLarge, response_for


class BodyLimitMiddleware:
    """Refuses a body over `max_body_bytes`, declared or chunked (RFC 9110, section 15.5.14).

    FastAPI's own `max_body_size` answers text/plain in one of the two cases.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self.max_body_bytes:
            # Without `Connection: close`: whoever sends first and reads then would meet a reset, not the answer.
            await response_for(scope, PayloadTooLarge())(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise PayloadTooLarge
            return message

        await self.app(scope, limited_receive, send)
