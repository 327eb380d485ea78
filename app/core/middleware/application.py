"""The application class: FastAPI's, with `RequestMiddleware` outside all other middleware."""

from fastapi import FastAPI
from starlette.types import ASGIApp

from app.core.middleware.request import RequestMiddleware


class Application(FastAPI):
    """A FastAPI application whose responses all have a trace id, an access line and metrics.

    FastAPI puts what `@app.middleware("http")` and `app.add_middleware` add outside of the middleware that the
    application was made with. `RequestMiddleware` has to be outside of those, too. `app.state` has its arguments.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Wrap FastAPI's own stack."""
        stack = super().build_middleware_stack()
        return RequestMiddleware(stack, self.state.routes, log_caller=self.state.settings.log_caller)
