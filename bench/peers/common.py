"""What the Python peers share: fields and validation, the access line, the metrics."""

import logging.config
import re
import secrets
import time
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
            }
        },
        "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}},
        "root": {"level": "INFO", "handlers": ["stdout"]},
    }
)
log = logging.getLogger("access")

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
REQUESTS = Counter("http_requests", "Requests.", ["method", "path", "status"])
DURATION = Histogram("http_request_duration_seconds", "Seconds.", ["method", "path"], buckets=BUCKETS)
TRACE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def alphanumeric(value: str) -> str:
    if not value.isalnum():
        raise ValueError("must be alphanumeric")
    return value


Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(alphanumeric)]
Price = Annotated[
    Decimal,
    Field(gt=0, max_digits=12, decimal_places=2, allow_inf_nan=False),
    PlainSerializer(float, return_type=float),
]
Description = Annotated[str | None, Field(max_length=10_000)]


class ItemCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    price: Price
    description: Description = None


class ItemPatch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    price: Price = Decimal(1)
    description: Description = None


class Item(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    price: Price
    description: str | None
    created_at: datetime
    updated_at: datetime


class ItemPage(BaseModel):
    items: list[Item]
    next_cursor: str | None


def observe(method: str, path: str, template: str, status: int, started: float, client: str, trace_id: str) -> None:
    seconds = time.perf_counter() - started
    REQUESTS.labels(method, template, str(status)).inc()
    DURATION.labels(method, template).observe(seconds)
    extra: dict[str, Any] = {
        "method": method,
        "path": path,
        "status": status,
        "duration_ms": round(seconds * 1000, 3),
        "client": client,
        "trace_id": trace_id,
    }
    log.info("request", extra=extra)


def trace_id_of(given: str | None) -> str:
    return given if given and TRACE_ID.fullmatch(given) else secrets.token_hex(16)


class AccessMiddleware:
    """Trace id, access line, metrics: minimal, in pure ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-trace-id"), None)
        trace_id = trace_id_of(given)
        status = 500

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-trace-id", trace_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, traced)
        finally:
            route = scope.get("route")
            template = route.path if route is not None else "unmatched"
            observe(scope["method"], scope["path"], template, status, started, scope["client"][0], trace_id)


def add_operations(app: FastAPI) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/metrics")
    async def metrics() -> Response:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
