"""Each shape of handler that FastAPI documents: how it is declared, what is sent, and which way serves it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import fastapi
from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    File,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
)
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer, SecurityScopes
from pydantic import BaseModel, ConfigDict, Field

from tests.core.api import string_annotations

Declare = Callable[[fastapi.APIRouter], None]
SHORT, FASTAPI = "the short way", "FastAPI's own handler"


class Thing(BaseModel):
    """A model."""

    name: str
    size: float = 1.5


class Stored(BaseModel):
    """A model."""

    model_config = ConfigDict(from_attributes=True)

    name: str


class Listing(BaseModel):
    """A model."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    tags: list[str] = []


class Flat(BaseModel):
    """A model."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    name: str | None = None


@dataclass
class Row:
    """What a database returns: more than the model shows."""

    name: str
    hidden: str = "not in the model"


@dataclass
class Case:
    """One shape: how it is declared, what is sent, and which way serves it."""

    declare: Declare
    way: str
    requests: list[dict[str, Any]] = field(default_factory=lambda: [{}])


CASES: dict[str, Case] = {}


def case(name: str, way: str, *requests: dict[str, Any]) -> Callable[[Declare], Declare]:
    def add(declare: Declare) -> Declare:
        CASES[name] = Case(declare, way, list(requests) or [{}])
        return declare

    return add


@case("path", SHORT, {"url": "/7"}, {"url": "/x"})
def _path(router: fastapi.APIRouter) -> None:
    @router.get("/{thing_id}")
    async def get(thing_id: Annotated[int, Path(ge=1)]) -> dict[str, int]:
        return {"id": thing_id}


@case("query", SHORT, {}, {"url": "?limit=5&name=a+b"}, {"url": "?limit=x"}, {"url": "?limit=&name="})
def _query(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(limit: int = 20, name: str | None = None) -> dict[str, Any]:
        return {"limit": limit, "name": name}


@case("required query", SHORT, {}, {"url": "?limit=5"})
def _required(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(limit: int) -> int:
        return limit


@case("list query", SHORT, {}, {"url": "?tag=a&tag=b"}, {"url": "?tag="})
def _list_query(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(tag: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
        return {"tag": tag}


@case("alias", SHORT, {}, {"url": "?thing-name=a"}, {"url": "?name=a"})
def _alias(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(name: Annotated[str, Query(alias="thing-name", min_length=1)] = "x") -> str:
        return name


@case(
    "query model",
    SHORT,
    *({"url": f"?{query}"} for query in ("", "limit=5", "limit=0", "nmae=a", "name=%C3%A9", "limit=5;name=a")),
)
def _query_model(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(query: Annotated[Flat, Query()]) -> Flat:
        return query


@case("query model with a list", SHORT, {"url": "?tags=a&tags=b&limit=7"}, {"url": "?limit=x&tags="})
def _query_model_list(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(query: Annotated[Listing, Query()]) -> Listing:
        return query


@case("header", SHORT, {}, {"headers": {"X-Token": "a"}}, {"headers": [("X-Token", "a"), ("X-Token", "b")]})
def _header(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(x_token: Annotated[str | None, Header()] = None, accept: Annotated[str, Header()] = "") -> list[Any]:
        return [x_token, accept]


@case("list header", SHORT, {}, {"headers": [("X-Token", "a"), ("X-Token", "b")]})
def _list_header(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(x_token: Annotated[list[str] | None, Header()] = None) -> Any:
        return x_token


@case("cookie", SHORT, {}, {"headers": {"Cookie": "ads_id=7"}}, {"headers": {"Cookie": "ads_id=x"}})
def _cookie(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(ads_id: Annotated[int, Cookie()] = 0) -> int:
        return ads_id


@case(
    "body",
    SHORT,
    *({"method": "POST", "json": {"name": "a", **more}} for more in ({}, {"size": 2.25}, {"name": 1})),
    *(
        {"method": "POST", "content": text, "headers": {"Content-Type": "application/json"}}
        for text in (b"[]", b"null")
    ),
    {"method": "POST"},
    {"method": "POST", "content": b"{", "headers": {"Content-Type": "application/json"}},
)
def _body(router: fastapi.APIRouter) -> None:
    @router.post("", status_code=201)
    async def post(thing: Thing) -> Thing:
        return thing


@case("free-form body", SHORT, {"method": "POST", "json": {"a": 1.5, "b": [2, 0.1]}})
def _free_body(router: fastapi.APIRouter) -> None:
    @router.post("")
    async def post(thing: dict[str, Any]) -> Any:
        return {"got": thing, "kinds": [type(value).__name__ in {"float", "JSONNumber"} for value in thing.values()]}


@case("strict float", SHORT, {"method": "POST", "json": {"price": 0.1}})
def _strict_float(router: fastapi.APIRouter) -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)

        price: float

    @router.post("")
    async def post(thing: Strict) -> Any:
        return thing


@case("embedded body", FASTAPI, {"method": "POST", "json": {"thing": {"name": "a"}}}, {"method": "POST", "json": {}})
def _embedded(router: fastapi.APIRouter) -> None:
    @router.post("")
    async def post(thing: Annotated[Thing, Body(embed=True)]) -> Thing:
        return thing


@case("two bodies", FASTAPI, {"method": "POST", "json": {"thing": {"name": "a"}, "number": 2}})
def _two_bodies(router: fastapi.APIRouter) -> None:
    @router.post("")
    async def post(thing: Thing, number: Annotated[int, Body()]) -> Any:
        return [thing, number]


@case("form", FASTAPI, {"method": "POST", "data": {"username": "a", "password": "b"}}, {"method": "POST", "data": {}})
def _form(router: fastapi.APIRouter) -> None:
    @router.post("")
    async def post(username: Annotated[str, Form()], password: Annotated[str, Form()]) -> str:
        return username + password


@case(
    "upload",
    FASTAPI,
    {"method": "POST", "files": {"upload": ("a.txt", b"abc", "text/plain"), "raw": ("b", b"xyz")}},
    {"method": "POST"},
)
def _upload(router: fastapi.APIRouter) -> None:
    @router.post("")
    async def post(upload: UploadFile, raw: Annotated[bytes, File()]) -> Any:
        return {"name": upload.filename, "size": len(await upload.read()), "raw": len(raw)}


@case("def", FASTAPI, {"url": "?limit=3"})
def _def(router: fastapi.APIRouter) -> None:
    @router.get("")
    def get(limit: int = 20) -> int:
        return limit


async def _yielding() -> AsyncIterator[str]:
    yield "yielded"


def plain() -> str:
    return "plain"


@case("yield", FASTAPI)
def _yield(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(value: Annotated[str, Depends(_yielding)]) -> str:
        return value


@case("def dependency", FASTAPI)
def _def_dependency(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(value: Annotated[str, Depends(plain)]) -> str:
        return value


async def _keyword_only(*, request: Request, limit: int = 3) -> str:
    return f"{request.method} {limit}"


@case("keyword-only", SHORT, {}, {"url": "?limit=x"})
def _keywords(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(*, value: Annotated[str, Depends(_keyword_only)]) -> str:
        return value


async def inner(x_token: Annotated[str, Header()]) -> str:
    return x_token


async def _outer(inner: Annotated[str, Depends(inner)], limit: int = 1) -> str:
    return f"{inner}{limit}"


@case("nested", SHORT, {"headers": {"X-Token": "a"}, "url": "?limit=2"}, {"url": "?limit=x"}, {})
def nested(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(outer: Annotated[str, Depends(_outer)]) -> str:
        return outer


class _Counter:
    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, limit: int) -> int:  # noqa: ARG002 - it is checked
        self.calls += 1
        return self.calls


@case("twice", SHORT, {"url": "?limit=1"}, {"url": "?limit=x"}, {})
def _twice(router: fastapi.APIRouter) -> None:
    count = _Counter()

    async def other(value: Annotated[int, Depends(count)]) -> int:
        return value

    @router.get("", dependencies=[Depends(count)])
    async def get(one: Annotated[int, Depends(count)], two: Annotated[int, Depends(other)]) -> list[int]:
        count.calls = 0
        return [one, two]


@case("uncached", FASTAPI, {"url": "?limit=1"})
def _uncached(router: fastapi.APIRouter) -> None:
    count = _Counter()

    @router.get("")
    async def get(one: Annotated[int, Depends(count)], two: Annotated[int, Depends(count, use_cache=False)]) -> Any:
        return [one, two]


async def _notes(tasks: BackgroundTasks, response: Response) -> None:
    response.headers["X-Notes"] = "1"
    tasks.add_task(lambda: None)


@case("background tasks", SHORT)
def _background(router: fastapi.APIRouter) -> None:
    done: list[int] = []

    @router.get("", dependencies=[Depends(_notes)])
    async def get(tasks: BackgroundTasks) -> int:
        tasks.add_task(done.append, 1)
        return len(tasks.tasks)


@case("response parameter", SHORT, {}, {"url": "?status=202"})
def _response_parameter(router: fastapi.APIRouter) -> None:
    @router.get("", status_code=201, dependencies=[Depends(_notes)])
    async def get(response: Response, status: int = 0) -> Any:
        response.headers["X-Other"] = "1"
        response.set_cookie("a", "b")
        if status:
            response.status_code = status
        return {"a": 1}


@case("returned model", SHORT)
def _returned_model(router: fastapi.APIRouter) -> None:
    @router.get("", response_model=Stored)
    async def get() -> Any:
        return Row("a")


@case("returned models without what is unset", SHORT)
def _unset(router: fastapi.APIRouter) -> None:
    @router.get("", response_model=list[Thing], response_model_exclude_unset=True)
    async def get() -> Any:
        return [Thing(name="a"), {"name": "b", "size": 2}]


@case("no response model", SHORT)
def _no_model(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get():  # type: ignore[no-untyped-def]  # noqa: ANN202
        return {"a": {1, 2}, "thing": Thing(name="a"), "row": Row("x")}


@case("no content", SHORT, {"method": "DELETE"})
def _no_content(router: fastapi.APIRouter) -> None:
    @router.delete("", status_code=204)
    async def delete() -> None:
        return None


@case("returned Response", SHORT)
def _returned_response(router: fastapi.APIRouter) -> None:
    @router.get("", dependencies=[Depends(_notes)])
    async def get() -> Response:
        return PlainTextResponse("text", 202, {"X-Mine": "1"})


@case("a model in spite of -> Response", SHORT)
def _model_as_response(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get() -> Response:
        return Thing(name="a")  # type: ignore[return-value]


@case("response class", SHORT)
def _response_class(router: fastapi.APIRouter) -> None:
    @router.get("", response_class=PlainTextResponse)
    async def get() -> str:
        return "text"


@case("raised", SHORT)
def _raised(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get() -> None:
        raise HTTPException(403, "Not yours", {"X-Why": "1"})


@case("string annotations", SHORT, {"url": "?limit=4"}, {"url": "?limit=x"})
def _string_annotations(router: fastapi.APIRouter) -> None:
    string_annotations.declare(router)


class _Page:
    def __init__(self, skip: int = 0, limit: int = 100) -> None:
        self.skip, self.limit = skip, limit


@case("class-based dependency", FASTAPI, {"url": "?skip=3"}, {"url": "?skip=x"})
def _class_based(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get(page: Annotated[_Page, Depends()]) -> list[int]:
        return [page.skip, page.limit]


_bearer = HTTPBearer()


async def _user(scopes: SecurityScopes, token: Annotated[Any, Depends(_bearer)]) -> list[str]:
    return [*scopes.scopes, token.credentials]


@case("security", SHORT, {}, {"headers": {"Authorization": "Bearer t"}}, {"headers": {"Authorization": "Basic t"}})
def _security(router: fastapi.APIRouter) -> None:
    @router.get("", dependencies=[Security(_user, scopes=["all"])])
    async def get(user: Annotated[list[str], Security(_user, scopes=["me", "all"])]) -> list[str]:
        return user


@case("generator", FASTAPI)
def _generator(router: fastapi.APIRouter) -> None:
    @router.get("")
    async def get() -> AsyncIterator[Thing]:
        yield Thing(name="a")
