"""What `DirectMiddleware` serves has the same answer as on FastAPI's way, and it serves what it can."""

from collections.abc import Callable
from typing import Any

import fastapi
import pytest
from fastapi import APIRouter as FastAPIRouter
from fastapi import HTTPException, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.applications import Starlette
from starlette.routing import Host, Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.api import APIRouter
from app.core.api.router import APIRoute
from app.core.application import Application
from app.core.config import Settings
from app.core.middleware.direct import DirectMiddleware
from tests.core.api.handler_shapes import CASES, SHORT

Include = Callable[[APIRouter], Application]


@pytest.fixture
def include(settings: Settings) -> Include:
    """Make an application with this router, under a prefix."""

    def make(router: FastAPIRouter) -> Application:
        app = Application(settings)
        app.include_router(router, prefix="/v1")
        return app

    return make


@pytest.fixture
def left_to_fastapi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the paths that FastAPI's router serves."""
    paths: list[str] = []
    routed = fastapi.routing.APIRouter.app

    async def noted(self: FastAPIRouter, scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await routed(self, scope, receive, send)

    monkeypatch.setattr(fastapi.routing.APIRouter, "app", noted)
    return paths


def answer(app: Application, request: dict[str, Any]) -> tuple[Any, ...]:
    client = TestClient(app, raise_server_exceptions=False)
    response = client.request(**{"method": "GET", **request})
    headers = [field for field in response.headers.multi_items() if field[0] != "x-trace-id"]
    content = response.content.replace(response.headers["x-trace-id"].encode(), b"")
    return response.status_code, headers, content


def answer_by_fastapi(app: Application, request: dict[str, Any]) -> tuple[Any, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectMiddleware, "_find", lambda *_, **_options: None)
        return answer(app, request)


@pytest.mark.parametrize("name", CASES)
def test_each_shape_of_handler_answers_as_on_fastapi_s_way(
    name: str, include: Include, left_to_fastapi: list[str]
) -> None:
    shape = CASES[name]
    router = APIRouter(prefix="/things")
    shape.declare(router)
    app = include(router)
    for sent in shape.requests:
        request = {**sent, "url": f"/v1/things{sent.get('url', '')}"}
        seen, way = answer(app, request), list(left_to_fastapi)
        assert bool(way) is (shape.way != SHORT), f"{request} was left to FastAPI: {way}"
        assert way or seen == answer_by_fastapi(app, request), request
        left_to_fastapi.clear()


class RefusedError(Exception):
    """An error of a service."""


def _failing() -> APIRouter:
    router = APIRouter(prefix="/things")

    @router.get("/{kind}")
    async def get(kind: str) -> Any:
        errors = {"refused": RefusedError(), "http": HTTPException(403, "Not yours"), "teapot": HTTPException(418)}
        raise errors.get(kind) or RuntimeError("a defect")

    return router


@pytest.mark.parametrize(("kind", "status"), [("refused", 409), ("http", 403), ("teapot", 418), ("defect", 500)])
def test_errors_reach_the_exception_handlers(kind: str, status: int, include: Include) -> None:
    app = include(_failing())

    @app.exception_handler(RefusedError)
    async def refused(request: Request, _error: Exception) -> Response:
        return PlainTextResponse(f"refused {request.path_params['kind']}", 409)

    @app.exception_handler(418)
    def teapot(request: Request, _error: Exception) -> Response:
        return PlainTextResponse(request.url.path, 418)

    request = {"url": f"/v1/things/{kind}"}
    seen = answer(app, request)
    assert seen[0] == status
    assert seen == answer_by_fastapi(app, request)


class Failing:
    """A middleware that an adopter adds, which stands outside of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        """Fail."""
        raise RuntimeError("a defect")


def test_an_error_outside_of_our_middleware_is_answered(include: Include) -> None:
    app = include(_failing())
    app.add_middleware(Failing)
    status, _, content = answer(app, {"url": "/v1/things/http"})
    assert (status, b"INTERNAL_ERROR" in content) == (500, True)


def test_a_handler_finds_in_its_request_what_fastapi_notes(include: Include) -> None:
    router = APIRouter(prefix="/things")

    @router.get("/{thing_id}/{rest:path}")
    async def get_thing(request: Request, thing_id: int, rest: str) -> Any:
        scope = request.scope
        names = {name: getattr(scope[name], "__name__", repr(scope[name])) for name in ("endpoint", "route", "router")}
        return [names, scope["path_params"], str(request.url_for("get_thing", thing_id=8, rest="x")), thing_id, rest]

    app = include(router)
    request = {"url": "/v1/things/7/a/b"}
    seen = answer(app, request)
    assert seen[0] == 200
    assert seen == answer_by_fastapi(app, request)


def test_the_first_route_that_matches_serves(include: Include) -> None:
    router = APIRouter()
    for path in ("/{name}", "/fixed", "/{name}/{rest}", "/a/b"):

        @router.get(path, name=path)
        async def get(request: Request) -> str:
            return str(request.scope["route"].name)

    @router.post("/fixed")
    async def post() -> str:
        return "post"

    app = include(router)
    for path, expected in (("/fixed", "/{name}"), ("/a/b", "/{name}/{rest}"), ("/a", "/{name}")):
        assert answer(app, {"url": f"/v1{path}"})[2] == f'"{expected}"'.encode()
        assert answer_by_fastapi(app, {"url": f"/v1{path}"})[2] == f'"{expected}"'.encode()
    assert answer(app, {"url": "/v1/fixed", "method": "POST"})[2] == b'"post"'
    assert answer(app, {"url": "/v1/fixed", "method": "HEAD"})[0] == 200


def test_a_concrete_path_without_the_method_is_405(include: Include) -> None:
    router = APIRouter()

    @router.get("/{name}")
    async def get(name: str) -> str:
        return name

    @router.post("/batch")
    async def post() -> str:
        return "post"

    status, headers, _ = answer(include(router), {"url": "/v1/batch"})
    assert (status, dict(headers)["allow"]) == (405, "POST")


def test_a_route_that_is_added_later_is_found(include: Include, left_to_fastapi: list[str]) -> None:
    router = APIRouter()
    app = include(router)
    assert answer(app, {"url": "/v1/late"})[0] == 404
    left_to_fastapi.clear()

    @router.get("/late")
    async def get() -> str:
        return "late"

    assert answer(app, {"url": "/v1/late"})[2] == b'"late"'
    assert left_to_fastapi == []


class Loud(APIRoute):
    """A route class as FastAPI documents it, around ours."""

    def get_route_handler(self) -> Any:
        """Add a header."""
        handler = super().get_route_handler()

        async def loud(request: Request) -> Response:
            response = await handler(request)
            response.headers["X-Loud"] = "1"
            return response

        return loud


async def _outside(_request: Request) -> Response:
    return PlainTextResponse("outside")


OUTSIDE = Starlette(routes=[Route("/{rest:path}", _outside)])


@pytest.mark.parametrize(
    "before",
    [Mount("/v1/things", OUTSIDE), Host("testserver", OUTSIDE), Route("/v1/things/{rest}", _outside)],
    ids=lambda route: type(route).__name__,
)
def test_other_kinds_of_routes_keep_their_place(before: Any, settings: Settings) -> None:
    app = Application(settings)
    app.router.routes.append(before)
    router = APIRouter()

    @router.get("/things/{name}")
    async def get(name: str) -> str:
        return name

    app.include_router(router, prefix="/v1")
    assert answer(app, {"url": "/v1/things/a"})[2] == b"outside"


def test_what_stands_around_a_handler_is_called(include: Include, left_to_fastapi: list[str]) -> None:
    router = APIRouter(route_class=Loud)

    @router.get("/loud")
    async def get() -> int:
        return 1

    app = include(router)
    assert ("x-loud", "1") in answer(app, {"url": "/v1/loud"})[1]
    assert left_to_fastapi == ["/v1/loud"]


def test_an_override_is_left_to_fastapi_until_it_is_taken_back(include: Include, left_to_fastapi: list[str]) -> None:
    async def number() -> int:
        return 1

    router = APIRouter()

    @router.get("/number")
    async def get(value: int = fastapi.Depends(number)) -> int:
        return value

    app = include(router)
    app.dependency_overrides[number] = lambda: 2
    assert answer(app, {"url": "/v1/number"})[2] == b"2"
    assert left_to_fastapi == ["/v1/number"]
    app.dependency_overrides.clear()
    assert answer(app, {"url": "/v1/number"})[2] == b"1"
    assert left_to_fastapi == ["/v1/number"]


@pytest.mark.parametrize("kind", ["mount", "host"])
def test_a_mounted_application_serves_its_own_routes(kind: str, settings: Settings) -> None:
    inner, outer = Application(settings), Application(settings)
    router = APIRouter()

    @router.get("/things/{name}")
    async def get(request: Request, name: str) -> list[str]:
        assert request.scope["router"] is outer.router
        return [name, *request.path_params]

    inner.include_router(router)
    if kind == "mount":
        outer.mount("/inner/{tenant}", inner)
    else:
        outer.host("{tenant}", inner)
    path = "/inner/x/things/a" if kind == "mount" else "/things/a"
    assert answer(outer, {"url": path})[2] == b'["a","tenant","name"]'


def test_the_prefix_of_a_proxy_is_not_part_of_the_path(settings: Settings) -> None:
    router = APIRouter()

    @router.get("/{one}/{two}")
    async def get_two(one: str, two: str) -> list[str]:
        return [one, two]

    @router.get("/{one}")
    async def get_one(one: str) -> str:
        return one

    app = Application(settings)
    app.include_router(router)
    assert TestClient(app, root_path="/v1").get("/v1/a").json() == "a"
