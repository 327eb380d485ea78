"""Check the `Host` header field against `TRUSTED_HOSTS`."""

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Receive, Scope, Send

from app.core.config import PROBE_PATHS


class HostMiddleware(TrustedHostMiddleware):
    """Rejects a `Host` that is not in `TRUSTED_HOSTS`; probes and scrapes use the address of the pod."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and scope["path"] in PROBE_PATHS:
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
