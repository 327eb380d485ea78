"""`JSONRoute` takes a query as FastAPI itself does."""

from typing import Annotated

import pytest
from fastapi import APIRouter, FastAPI, Query, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.testclient import TestClient

from app.core.api.route import JSONRoute


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    name: str | None = None


class _Lenient(BaseModel):
    limit: int
    name: str = "x"


class _Listing(BaseModel):
    ids: list[int] = []
    other: Annotated[str, Field(alias="another-name")] = ""


def _client() -> TestClient:
    app = FastAPI()
    for prefix, route_class in (("/ours", JSONRoute), ("/theirs", APIRoute)):
        router = APIRouter(prefix=prefix, route_class=route_class)

        @router.get("/strict")
        async def strict(query: Annotated[_Strict, Query()]) -> Response:
            return Response(query.model_dump_json())

        @router.get("/lenient")
        async def lenient(query: Annotated[_Lenient, Query()]) -> Response:
            return Response(query.model_dump_json())

        @router.get("/listing")
        async def listing(query: Annotated[_Listing, Query()]) -> Response:
            return Response(query.model_dump_json())

        app.include_router(router)
    return TestClient(app)


@pytest.mark.parametrize("path", ["strict", "lenient", "listing"])
@pytest.mark.parametrize(
    "query",
    [
        *("", "limit=5", "limit=5&name=a", "limit=0", "limit=x", "limit=", "name=", "limit=5&limit=6", "nmae=a"),
        *("limit=5&extra=1&extra=2", "limit=5;name=a", "&&limit=5", "limit=%35", "name=%C3%A9&limit=1", "limit=5&name"),
        *("ids=1&ids=2", "ids=x", "another-name=y", "other=y", "limit=5&name=a+b", "LIMIT=5"),
    ],
)
def test_a_query_is_taken_as_fastapi_takes_it(path: str, query: str) -> None:
    client = _client()
    ours, theirs = (client.get(f"/{whose}/{path}?{query}") for whose in ("ours", "theirs"))
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
