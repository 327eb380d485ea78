"""Numbers that JSON does not have, in answers without a response model: neither a 500, nor half a minute of work."""

import time
from decimal import Decimal
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, Request
from starlette.testclient import TestClient

from app.core.api import APIRouter

router = APIRouter()


@router.post("/async", response_model=None)
async def post(number: Annotated[float | None, Body()] = None, exact: Annotated[Decimal | None, Body()] = None) -> Any:
    """Send them back."""
    return [number, exact]


@router.post("/def", response_model=None)
def post_in_thread(
    number: Annotated[float | None, Body()] = None, exact: Annotated[Decimal | None, Body()] = None
) -> Any:
    """Send them back."""
    return [number, exact]


@router.get("/query", response_model=None)
async def get(number: float, exact: Decimal) -> Any:
    """Send them back."""
    return {"number": number, "exact": {"value": exact}}


@router.delete("/number", status_code=204, response_model=None)
async def delete() -> Any:
    """Return what nobody gets."""
    return {"deleted": 1}


@router.post("/twice", response_model=None)
async def post_twice(request: Request) -> Any:
    """Read the body twice, and change it between."""
    (await request.json())["again"] = True
    return await request.json()


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/async", "/def"])
def test_a_number_that_is_no_double_is_null(client: TestClient, path: str) -> None:
    began = time.process_time()
    for text in ("inf", "nan", "-Infinity", "1e999999", "9" * 1000):
        assert client.post(path, json={"number": text}).json() == [None, None]
    for text in ("1e999999", "1e999999999", "-1e400", "9" * 4000):
        assert client.post(path, json={"exact": text}).json() == [None, None]
    assert client.get("/query?number=inf&exact=1e999999").json() == {"number": None, "exact": {"value": None}}
    assert time.process_time() - began < 2, "seconds"


@pytest.mark.parametrize("path", ["/async", "/def"])
def test_other_numbers_are_what_fastapi_makes_of_them(client: TestClient, path: str) -> None:
    assert client.post(path, json={"number": 1.5, "exact": "1e20"}).content == b"[1.5,100000000000000000000]"
    assert client.post(path, json={"exact": "2.50"}).content == b"[null,2.5]"


def test_what_a_handler_returns_with_204_is_not_sent(client: TestClient) -> None:
    answer = client.delete("/number")
    assert (answer.status_code, answer.content, "content-type" in answer.headers) == (204, b"", False)


def test_json_that_is_read_twice_is_one_object(client: TestClient) -> None:
    assert client.post("/twice", json={"a": 1.5}).json() == {"a": 1.5, "again": True}
