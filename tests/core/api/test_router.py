"""Each shape of handler that FastAPI documents gives on `APIRoute` what it gives on FastAPI's own, and by which way."""

from typing import Any

import fastapi
import httpx2
import pytest
from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
)
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient

from app.core.api.router import APIRoute
from tests.core.api.handler_shapes import CASES, FASTAPI, SHORT, Declare, inner, nested


def _app(declare: Declare, route_class: type[fastapi.routing.APIRoute]) -> FastAPI:
    """Make an app that includes a router under a prefix."""
    router = fastapi.APIRouter(prefix="/things", route_class=route_class)
    declare(router)
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    return app


def _send(app: FastAPI, request: dict[str, Any]) -> httpx2.Response:
    options = {"method": "GET", **request}
    with TestClient(app) as client:
        return client.request(**{**options, "url": f"/v1/things{request.get('url', '')}"})


@pytest.mark.parametrize("name", CASES)
def test_a_route_does_what_fastapi_s_does(name: str, fastapis_calls: list[str]) -> None:
    shape = CASES[name]
    ours, theirs = (_app(shape.declare, kind) for kind in (APIRoute, fastapi.routing.APIRoute))
    assert ours.openapi() == theirs.openapi()
    for request in shape.requests:
        fastapis_calls.clear()
        answer = _send(ours, request)
        way = FASTAPI if fastapis_calls else SHORT
        expected = _send(theirs, request)
        seen = (answer.status_code, answer.headers.multi_items(), answer.content)
        assert seen == (expected.status_code, expected.headers.multi_items(), expected.content), request
        assert (way == shape.way) or answer.status_code in {400, 415}, f"{request} was served by {way}"


def test_the_cases_are_served_both_ways() -> None:
    assert {shape.way for shape in CASES.values()} == {SHORT, FASTAPI}


def test_dependencies_of_app_inclusion_and_router_apply(fastapis_calls: list[str]) -> None:
    called: list[str] = []

    def noting(name: str) -> Any:
        async def note() -> None:
            called.append(name)

        return Depends(note)

    router = fastapi.APIRouter(route_class=APIRoute, prefix="/things", dependencies=[noting("router")])

    @router.get("", dependencies=[noting("route")])
    async def get() -> int:
        return 1

    app = FastAPI(dependencies=[noting("app")])
    app.include_router(router, prefix="/v1", dependencies=[noting("inclusion")])
    app.include_router(router, prefix="/v2")
    client = TestClient(app)

    assert client.get("/v1/things").json() == 1
    assert called == ["app", "inclusion", "router", "route"]
    called.clear()
    assert client.get("/v2/things").json() == 1
    assert called == ["app", "router", "route"]
    assert fastapis_calls == []


@pytest.mark.parametrize("kind", ["model", "response"])
def test_background_tasks_run_after_the_answer(kind: str, fastapis_calls: list[str]) -> None:
    done: list[str] = []
    router = fastapi.APIRouter(route_class=APIRoute)

    async def note(tasks: BackgroundTasks) -> None:
        tasks.add_task(done.append, "dependency")

    @router.get("/tasks", dependencies=[Depends(note)])
    async def get(tasks: BackgroundTasks) -> Any:
        tasks.add_task(done.append, "handler")
        return PlainTextResponse("x") if kind == "response" else "x"

    app = FastAPI()
    app.include_router(router)

    assert TestClient(app).get("/tasks").status_code == 200
    assert done == ["dependency", "handler"]
    assert fastapis_calls == []


def test_overrides_reach_every_handler(fastapis_calls: list[str]) -> None:
    app = _app(nested, APIRoute)
    client = TestClient(app)
    app.dependency_overrides[inner] = lambda: "overridden"

    assert client.get("/v1/things").json() == "overridden1"
    assert fastapis_calls

    app.dependency_overrides.clear()
    fastapis_calls.clear()
    assert client.get("/v1/things", headers={"X-Token": "a"}).json() == "a1"
    assert fastapis_calls == []


def test_every_route_of_the_service_takes_the_short_way(client: TestClient, fastapis_calls: list[str]) -> None:
    thing = client.post("/things", json={"name": "Lamp", "price": 1.5}).json()
    requests = [
        ("GET", f"/things/{thing['id']}", None),
        ("GET", "/things?limit=1", None),
        ("POST", "/things/batch", {"items": [{"name": "Lamp", "price": 2}]}),
        ("PATCH", f"/things/{thing['id']}", {"price": 3}),
        ("DELETE", f"/things/{thing['id']}", None),
    ]
    for method, path, body in requests:
        assert client.request(method, path, json=body).is_success, (method, path)
    assert fastapis_calls == []
