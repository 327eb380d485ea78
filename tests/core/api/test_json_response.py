"""Numbers that JSON does not have, in answers without a response model: neither a 500, nor half a minute of work."""

import time
from decimal import Decimal
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI
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
