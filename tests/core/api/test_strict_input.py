"""Input is as strict whichever way a handler is served, and whoever reads it."""

import json
from typing import Annotated, Any

import fastapi
import pytest
from fastapi import (
    Body,
    Depends,
    FastAPI,
    Query,
    Request,
)
from starlette.testclient import TestClient

from app.core.api.router import APIRoute
from tests.core.api.handler_shapes import Thing, plain

_JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("kind", ["async", "def"])
def test_input_is_strict_on_either_way(kind: str, fastapis_calls: list[str]) -> None:
    router = fastapi.APIRouter(route_class=APIRoute, prefix="/things")
    if kind == "async":

        @router.post("")
        async def post(thing: Thing, limit: int = 1, tag: Annotated[list[str] | None, Query()] = None) -> Any:
            return [thing, limit, tag]
    else:

        @router.post("")
        def post_in_thread(thing: Thing, limit: int = 1, tag: Annotated[list[str] | None, Query()] = None) -> Any:
            return [thing, limit, tag]

    app = FastAPI()
    app.include_router(router)
    client = TestClient(app)

    assert client.post("/things?tag=a&tag=b", json={"name": "a"}).status_code == 200
    assert bool(fastapis_calls) is (kind == "def")
    assert client.post("/things?limit=1&limit=2", json={"name": "a"}).status_code == 422
    assert client.post("/things?limit=%ff", json={"name": "a"}).status_code == 422
    assert client.post("/things", content=b'{"name": "a", "name": "b"}', headers=_JSON).status_code == 422
    assert client.post("/things", content=b'{"name": "a"}', headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("kind", ["async", "def"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 64 + b"]" * 64, 200),
        (b"[" * 65 + b"]" * 65, 422),
        (b'{"a": ' * 900 + b"1" + b"}" * 900, 422),
        (b'["a\\n", "' + b"[" * 70 + b'\\""]', 200),
        (b'{"a": "\\ud83d\\ude00", "b": "\\\\ud800"}', 200),
        (b'{"a": "\\ud800"}', 422),
        (b'{"\\uDC00": "a"}', 422),
        (b"[1e308, 1e-400]", 200),
        (b"[-1e400]", 422),
    ],
    ids=[
        "64 levels",
        "65",
        "900",
        "brackets in a string",
        "a pair",
        "a lone surrogate",
        "in a name",
        "doubles",
        "none",
    ],
)
def test_what_could_not_be_sent_back_is_not_accepted(kind: str, body: bytes, status: int) -> None:
    router = fastapi.APIRouter(route_class=APIRoute, prefix="/things")
    if kind == "async":

        @router.post("")
        async def post(thing: Annotated[Any, Body()]) -> Any:
            return thing
    else:

        @router.post("")
        def post_in_thread(thing: Annotated[Any, Body()]) -> Any:
            return thing

    app = FastAPI()
    app.include_router(router)
    answer = TestClient(app, raise_server_exceptions=False).post("/things", content=body, headers=_JSON)
    assert answer.status_code == status
    assert status == 422 or answer.json() == json.loads(body)


@pytest.mark.parametrize("number", ["", "1"])
def test_a_handler_that_reads_the_body_itself_gets_strict_json_too(number: str, fastapis_calls: list[str]) -> None:
    router = fastapi.APIRouter(route_class=APIRoute, prefix="/things")

    @router.post("")
    async def post(request: Request, *, lenient: bool = False) -> Any:
        try:
            return await request.json()
        except json.JSONDecodeError as error:
            if lenient:
                return {"position": error.pos, "line": error.lineno}
            raise

    @router.post("1", dependencies=[Depends(plain)])
    async def post_fastapis_way(request: Request) -> Any:
        return await request.json()

    app = FastAPI()
    app.include_router(router)
    client = TestClient(app)
    assert client.post(f"/things{number}", content=b'{"a": 1.5}').json() == {"a": 1.5}
    for body in b"", b"{", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000:
        assert client.post(f"/things{number}", content=body).status_code == 422
    assert bool(fastapis_calls) is bool(number)
    assert client.post("/things?lenient=1", content=b'{"a": }').json() == {"position": 6, "line": 1}


@pytest.mark.parametrize("kind", ["async", "def"])
def test_a_number_in_a_path_may_be_of_any_length(kind: str) -> None:
    router = fastapi.APIRouter(route_class=APIRoute, prefix="/things")
    if kind == "async":

        @router.get("/{number:int}")
        async def get(number: int) -> int:
            return number % 10
    else:

        @router.get("/{number:int}")
        def get_in_thread(number: int) -> int:
            return number % 10

    app = FastAPI()
    app.include_router(router)
    client = TestClient(app)
    assert client.get("/things/" + "7" * 4000).json() == 7
    assert client.get("/things/" + "7" * 5000).status_code == 404


async def _read(request: Request) -> Any:
    return await request.json()


@pytest.mark.parametrize("kind", ["async", "def", "vendor"])
def test_json_is_strict_whoever_reads_it(kind: str) -> None:
    router = fastapi.APIRouter(route_class=APIRoute, prefix="/things")
    if kind == "async":

        @router.post("")
        async def post(thing: Annotated[Any, Depends(_read)]) -> Any:
            return thing
    elif kind == "def":

        @router.post("")
        def post_in_thread(thing: Annotated[Any, Depends(_read)]) -> Any:
            return thing
    else:

        @router.post("")
        async def post_vendors(thing: Annotated[Any, Body(media_type="application/vnd.thing+json")]) -> Any:
            return thing

    app = FastAPI()
    app.include_router(router)
    client, headers = TestClient(app), {"Content-Type": "application/vnd.thing+json"}
    assert client.post("/things", content=b'{"a": 1.5}', headers=headers).json() == {"a": 1.5}
    for body in b"{", b"\xff", b'{"a": 1, "a": 2}', b"[NaN]", b"[" * 100_000, b"[" + b"0," * 9000 + b"0]":
        assert client.post("/things", content=body, headers=headers).status_code == 422


@pytest.mark.parametrize("limits", [{}, {"max_part_size": 200_000}])
def test_a_form_that_a_handler_reads_has_the_limits_of_others(limits: dict[str, int]) -> None:
    router = fastapi.APIRouter(route_class=APIRoute, prefix="/things")

    @router.post("")
    async def post(request: Request) -> int:
        async with request.form(**limits) as form:
            return len(str(form["text"]))

    app = FastAPI()
    app.include_router(router)
    client = TestClient(app)
    assert client.post("/things", data={"text": "a" * 100_000}).json() == 100_000
    assert client.post("/things", data={"text": "a" * 150_000}).status_code == (200 if limits else 400)
