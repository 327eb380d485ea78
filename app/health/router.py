"""`/health/live` and `/health/ready`: neither ever waits for a connection of the pool."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.core.api import openapi
from app.core.database import HealthCheck
from app.core.errors import APIError
from app.core.lifecycle import lifecycle

router = APIRouter(prefix="/health", tags=["operations"])


class Live(BaseModel):
    """The process runs its event loop."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """The process can serve: the database answers, and no end is near."""

    status: Literal["ready"] = "ready"


class NotReady(APIError):
    """Send the traffic elsewhere."""

    code, status, default_message = "DATABASE_ERROR", 503, "The database does not answer"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


@router.get("/live", summary="Liveness")
async def get_live() -> Live:
    """Answer whatever the database does: a restart would not bring it back."""
    return Live()


@router.get("/ready", summary="Readiness", responses=openapi.errors(NotReady))
async def get_ready(request: Request) -> Ready:
    """Answer 503 while the database is away, and from the moment of `SIGTERM`."""
    if lifecycle.draining:
        raise NotReady("Shutting down")
    health_check: HealthCheck = request.app.state.health_check
    if not await health_check.is_up():
        raise NotReady
    return Ready()
