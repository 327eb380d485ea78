"""`/health/live` and `/health/ready`: neither waits for a connection of the pool."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.core.api.openapi.operations import errors
from app.core.database import HealthCheck
from app.core.errors import DatabaseError, ShuttingDown
from app.core.lifecycle import lifecycle

router = APIRouter(prefix="/health", tags=["operations"])


class Live(BaseModel):
    """The event loop is running."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """The service can take requests: the database answers, and the service is not shutting down."""

    status: Literal["ready"] = "ready"


@router.get("/live", summary="Liveness")
async def get_live() -> Live:
    """Answer 200 whatever the state of the database: a restart would not bring the database back."""
    return Live()


@router.get("/ready", summary="Readiness", responses=errors(DatabaseError, ShuttingDown))
async def get_ready(request: Request) -> Ready:
    """Answer 503 while the database does not answer, and from `SIGTERM` on."""
    if lifecycle.draining:
        raise ShuttingDown
    health_check: HealthCheck = request.app.state.health_check
    if not await health_check.is_up():
        raise DatabaseError
    return Ready()
