"""What the OpenAPI document says of a route follows from what the route takes."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter as FastAPIRouter
from fastapi import Depends, FastAPI, Form
from pydantic import BaseModel

from app.core.api.conditional_requests import Conditions
from app.core.api.idempotency import IdempotencyKey
from app.core.api.openapi.operations import errors
from app.core.api.pagination import Links, Page
from app.core.api.router import APIRouter
from app.core.database import DB
from app.core.errors import Conflict, NotFound
from app.main import create_app
from tests.conftest import MakeSettings


class Thing(BaseModel):
    """A thing."""

    id: int


class Report(BaseModel):
    """What is not found by an id."""

    text: str


async def _with_conditions(conditions: Conditions) -> None:
    del conditions


def _router() -> APIRouter:
    router = APIRouter(prefix="/things")

    @router.post("", status_code=201, response_model=Thing, responses=errors(Conflict))
    async def create_thing(thing: Thing, db: DB, key: IdempotencyKey, conditions: Conditions) -> None: ...

    @router.get("", response_model=Page[Thing])
    async def list_things(links: Links) -> None: ...

    @router.get("/{thing_id}", response_model=Thing, responses=errors(NotFound))
    async def get_thing(thing_id: int, conditions: Conditions) -> None: ...

    @router.patch("/{number}", response_model=Thing, dependencies=[Depends(_with_conditions)])
    async def patch_thing(number: int, patch: Thing) -> None: ...

    @router.delete("/{thing_id}", status_code=204)
    async def delete_thing(thing_id: int, conditions: Conditions) -> None: ...

    @router.post("/{thing_id}/refund")
    async def refund_thing(thing_id: int, amount: Annotated[int, Form()]) -> None: ...

    @router.get("/{thing_id}/parts/{part_id}")
    async def get_part(thing_id: int, part_id: int) -> None: ...

    @router.post("/reports", status_code=201, response_model=Report)
    async def create_report(conditions: Conditions) -> None: ...

    @router.get("/reports/{report_id}")
    async def get_report(report_id: int) -> None: ...

    return router


@pytest.fixture
def app(make_settings: MakeSettings) -> FastAPI:
    """Make the service with a router of every kind of route."""
    app = create_app(make_settings())
    app.include_router(_router(), prefix="/v1")
    return app


def codes(operation: dict[str, Any]) -> dict[str, set[str]]:
    """List the codes of errors by status."""
    contents = {status: answer.get("content", {}) for status, answer in operation["responses"].items()}
    examples = {s: set(content.get("application/json", {}).get("examples", ())) for s, content in contents.items()}
    return {status: found for status, found in examples.items() if found}


def headers(operation: dict[str, Any]) -> dict[str, set[str]]:
    """List the header fields of successes, without the trace id that each has."""
    return {
        status: answer["headers"].keys() - {"X-Trace-ID"}
        for status, answer in operation["responses"].items()
        if status < "400"
    }


def parameters(operation: dict[str, Any]) -> list[str]:
    return [parameter["name"] for parameter in operation.get("parameters", ())]


def test_a_create(app: FastAPI) -> None:
    create = app.openapi()["paths"]["/v1/things"]["post"]

    assert parameters(create) == ["Idempotency-Key"]
    assert headers(create) == {"201": {"Location", "ETag", "Idempotent-Replayed"}}
    assert codes(create) == {
        "409": {"CONFLICT", "IDEMPOTENCY_KEY_IN_USE"},
        "413": {"PAYLOAD_TOO_LARGE"},
        "414": {"INVALID_INPUT"},
        "415": {"UNSUPPORTED_MEDIA_TYPE"},
        "422": {"INVALID_INPUT", "IDEMPOTENCY_KEY_REUSED"},
        "431": {"INVALID_INPUT"},
        "500": {"INTERNAL_ERROR"},
        "503": {"DATABASE_ERROR", "OVERLOADED"},
    }


def test_a_page_and_a_read(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    page, read = paths["/v1/things"]["get"], paths["/v1/things/{thing_id}"]["get"]

    assert (parameters(page), headers(page)) == ([], {"200": {"Link"}})
    assert codes(page).keys() == {"414", "431", "500", "503"}
    assert (parameters(read), headers(read)) == (["thing_id", "If-None-Match"], {"200": {"ETag"}, "304": {"ETag"}})
    assert codes(read) == codes(page) | {"404": {"NOT_FOUND"}, "422": {"INVALID_INPUT"}}


def test_a_change(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    patch, delete = paths["/v1/things/{number}"]["patch"], paths["/v1/things/{thing_id}"]["delete"]

    assert parameters(patch) == ["number", "If-Match", "If-None-Match"]
    assert headers(patch) == {"200": {"ETag"}}
    assert codes(patch)["412"] == codes(delete)["412"] == {"PRECONDITION_FAILED"}
    content = patch["requestBody"]["content"]
    assert content["application/merge-patch+json"] == content["application/json"] != {}
    assert headers(delete) == {"204": set()}
    assert "content" not in delete["responses"]["204"]
    assert "413" not in codes(delete)


def test_a_form_has_no_media_type_of_json(app: FastAPI) -> None:
    refund = app.openapi()["paths"]["/v1/things/{thing_id}/refund"]["post"]

    assert list(refund["requestBody"]["content"]) == ["application/x-www-form-urlencoded"]
    assert codes(refund).keys() & {"413", "415"} == {"413"}


def test_what_is_created_leads_to_the_operations_on_it(app: FastAPI) -> None:
    paths = app.openapi()["paths"]

    links = paths["/v1/things"]["post"]["responses"]["201"]["links"]
    this, tag = "$response.body#/id", "$response.header.ETag"
    assert {name: link["parameters"] for name, link in links.items()} == {
        "get_thing": {"thing_id": this},
        "patch_thing": {"number": this, "If-Match": tag},
        "delete_thing": {"thing_id": this, "If-Match": tag},
        "refund_thing": {"thing_id": this},
    }
    assert "links" not in paths["/v1/things/reports"]["post"]["responses"]["201"]


def test_a_router_of_fastapi_s_documents_nothing_of_this(make_settings: MakeSettings) -> None:
    app = create_app(make_settings())
    router = FastAPIRouter()

    @router.patch("/plain")
    async def patch(thing: Thing) -> None: ...

    app.include_router(router)
    plain = app.openapi()["paths"]["/plain"]["patch"]

    assert list(plain["requestBody"]["content"]) == ["application/json"]
    assert codes(plain).keys() == {"414", "422", "431", "500"}
