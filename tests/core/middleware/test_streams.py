"""Which responses are streams."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.testclient import TestClient

from app.core.application import Application
from app.core.config import Settings
from app.core.middleware.limits.streams import StreamLimit

Ask = Callable[[str], int]


async def _pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


@pytest.fixture(params=["alone", "inside of BaseHTTPMiddleware"])
def streams_of(
    request: pytest.FixtureRequest, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Ask:
    """Ask for a path, and return how many streams that was."""
    router = APIRouter()
    (tmp_path / "small").write_bytes(bytes(1_000))
    (tmp_path / "large").write_bytes(bytes(100_000))

    @router.get("/file/{name}")
    async def get_file(name: str) -> FileResponse:
        return FileResponse(tmp_path / name)

    @router.get("/json")
    async def get_json() -> list[int]:
        return [0] * 50_000

    @router.get("/nothing", status_code=204)
    async def get_nothing() -> None:
        pass

    @router.get("/stream")
    async def get_stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"part"

        return StreamingResponse(parts())

    inside = [] if request.param == "alone" else [Middleware(BaseHTTPMiddleware, dispatch=_pass_on)]
    app = Application(settings, middleware=inside)
    app.include_router(router)
    taken: list[str] = []
    take = StreamLimit.take

    def noted(limit: StreamLimit, kind: str) -> bool:
        taken.append(kind)
        return take(limit, kind)

    monkeypatch.setattr(StreamLimit, "take", noted)

    def ask(path: str) -> int:
        taken.clear()
        with TestClient(app) as client:
            answer = client.get(path)
        assert answer.is_success
        assert len(answer.content) == int(answer.headers.get("content-length", len(answer.content)))
        return len(taken)

    return ask


@pytest.mark.parametrize("path", ["/json", "/nothing", "/file/small", "/openapi.json"])
def test_a_response_in_one_part_is_none(streams_of: Ask, path: str) -> None:
    assert streams_of(path) == 0


@pytest.mark.parametrize("path", ["/stream", "/file/large"])
def test_a_response_without_a_length_or_in_several_parts_is_one(streams_of: Ask, path: str) -> None:
    assert streams_of(path) == 1
