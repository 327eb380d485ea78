"""A service on loopback that fails in every way, and calls of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Annotated

import httpx2
import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel, ConfigDict, Field

from app.core.client import Downstream, client, new_pool, retry
from app.core.errors import DownstreamError, DownstreamTimeout
from tests.support.downstream import (
    Stub,
    stub_service,
)


class Level(BaseModel):
    """What the calls of these tests expect."""

    model_config = ConfigDict(strict=True)

    quantity: Annotated[int, Field(ge=0, le=2**63 - 1)]


class Order(BaseModel):
    """What the writing calls of these tests send."""

    quantity: int = 1
    note: str = "none"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_service() as stub:
        yield stub


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx2.AsyncClient]:
    monkeypatch.setattr(client, "_CONNECT_TIMEOUT", 30.0)
    async with new_pool() as pool:
        yield pool


@pytest.fixture
def service(stub: Stub, pool: httpx2.AsyncClient) -> Downstream:
    """Call the stub with a deadline that a busy machine keeps."""
    return Downstream("stub", stub.url, pool, deadline=30.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between tries."""
    monkeypatch.setattr(retry, "_backoff", lambda _: 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, service: Downstream) -> float:
    """Give up earlier than the service would."""
    monkeypatch.setattr(service, "_deadline", 2.0)
    return 2.0


async def ask(service: Downstream) -> int | None:
    level = await service.get("/stock/7", Level)
    return level.quantity if level else None


async def fail(service: Downstream) -> None:
    with pytest.raises((DownstreamError, DownstreamTimeout)):
        await ask(service)


async def asked(stub: Stub) -> None:
    """Wait until the other service has been asked."""
    async with asyncio.timeout(60):
        while not stub.tries:  # noqa: ASYNC110 - another thread sees it
            await asyncio.sleep(0.01)


def counted(outcome: str, service: str = "stub") -> float:
    return REGISTRY.get_sample_value("downstream_requests_total", {"service": service, "outcome": outcome}) or 0.0


def state() -> float | None:
    return REGISTRY.get_sample_value("downstream_breaker_state", {"service": "stub"})


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
