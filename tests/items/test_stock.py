"""`GET /items/{item_id}/stock`: what the inventory says, and nothing of how it failed."""

import re
import time
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from app import __title__
from app.core.client import client as core_client
from app.core.error_responses import PROBLEM_JSON
from app.items.settings import InventorySettings
from tests.conftest import MakeClient, StartService
from tests.support.downstream import Stub, hang, json_reply, reply, reset, stub_service
from tests.support.service import eventually


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_service() as stub:
        yield stub


def test_the_stock_is_what_the_inventory_says(stub: Stub, make_client: MakeClient) -> None:
    client = make_client(inventory_url=f"{stub.url}/v1/")
    stub.answer(json_reply({"quantity": 12, "warehouse": "north"}))
    answer = client.get("/items/9223372036854775807/stock", headers={"X-Trace-ID": "stock-1"})
    assert answer.status_code == 200
    assert answer.json() == {"item_id": 2**63 - 1, "quantity": 12}
    assert stub.received[0].path == "/v1/stock/9223372036854775807"
    assert stub.received[0].headers["x-trace-id"] == "stock-1"


def test_head_is_get_without_the_body(stub: Stub, make_client: MakeClient) -> None:
    client = make_client(inventory_url=stub.url)
    got, head = client.get("/items/7/stock"), client.head("/items/7/stock")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


def test_an_item_that_the_inventory_does_not_know_is_not_found(stub: Stub, make_client: MakeClient) -> None:
    stub.answer(reply(404, b"secret"))
    answer = make_client(inventory_url=stub.url).get("/items/7/stock")
    assert answer.status_code == 404
    assert answer.json()["detail"] == {"code": "ITEM_NOT_FOUND", "message": "Item 7 not found"}


def test_without_an_inventory_there_is_no_such_path(make_client: MakeClient) -> None:
    client = make_client()
    answer = client.get("/items/7/stock")
    assert (answer.status_code, answer.json()["detail"]["code"]) == (404, "NOT_FOUND")
    assert "/items/{item_id}/stock" not in client.get("/openapi.json").json()["paths"]


def test_the_id_is_checked_before_the_inventory_is_asked(stub: Stub, make_client: MakeClient) -> None:
    client = make_client(inventory_url=stub.url)
    for item_id in ("0", "-1", "+1", "1.0", "1_0", "9223372036854775808", "x", "%2e%2e", "7%3Fa=b"):
        answer = client.get(f"/items/{item_id}/stock")
        assert (answer.status_code, answer.json()["detail"]["code"]) == (422, "INVALID_INPUT"), item_id
    assert stub.tries == 0


def test_another_method_is_not_allowed(stub: Stub, make_client: MakeClient) -> None:
    answer = make_client(inventory_url=stub.url).post("/items/7/stock")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_failure_says_no_more_than_that(stub: Stub, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_client, "DEADLINE", 2.0)
    client = make_client(inventory_url=stub.url)
    for answer, status, code in (
        (reply(500, b"secret"), 502, "DOWNSTREAM_ERROR"),
        (json_reply({"quantity": "secret"}), 502, "DOWNSTREAM_ERROR"),
        (reset, 502, "DOWNSTREAM_ERROR"),
        (hang, 504, "DOWNSTREAM_TIMEOUT"),
    ):
        stub.answer(answer)
        failed = client.get("/items/7/stock", headers={"X-Trace-ID": "failed-1"})
        assert failed.status_code == status
        assert failed.json()["detail"]["code"] == code
        assert failed.json()["trace_id"] == "failed-1"
        assert "secret" not in failed.text
        assert stub.url.removeprefix("http://") not in failed.text
    problem = client.get("/items/7/stock", headers={"Accept": PROBLEM_JSON})
    assert (problem.headers["content-type"], problem.json()["code"]) == (PROBLEM_JSON, "DOWNSTREAM_TIMEOUT")


def test_a_quantity_is_a_whole_number_of_things(stub: Stub, make_client: MakeClient) -> None:
    client = make_client(inventory_url=stub.url)
    for quantity in (True, 1.0, "1", -1, None, 2**63, [1]):
        stub.answer(json_reply({"quantity": quantity}))
        answer = client.get("/items/7/stock")
        assert (answer.status_code, answer.json()["detail"]["code"]) == (502, "DOWNSTREAM_ERROR"), quantity
    for quantity in (0, 2**63 - 1):
        stub.answer(json_reply({"quantity": quantity}))
        assert client.get("/items/7/stock").json()["quantity"] == quantity


def test_the_url_of_the_inventory_is_checked() -> None:
    for good in ("http://inventory", "https://inventory.example:8443/v1/", "http://[::1]:8080"):
        assert str(InventorySettings(inventory_url=good).inventory_url).startswith(good)
    for bad in (
        "inventory",
        "ftp://inventory",
        "http://",
        "http://u:secret@i",
        "http://i?a",
        "http://i#a",
        "http://i:x",
    ):
        with pytest.raises(ValidationError) as refused:
            InventorySettings(inventory_url=bad)
        assert refused.value.errors()[0]["loc"] == ("inventory_url",)
        assert "secret" not in str(refused.value)


def test_the_service_answers_logs_and_counts(stub: Stub, start_service: StartService) -> None:
    service = start_service(INVENTORY_URL=stub.url, WEB_CONCURRENCY="2")
    eventually(lambda: service.client.get("/items/7/stock").json() == {"item_id": 7, "quantity": 12})

    stub.answer(hang)
    started = time.monotonic()
    answer = service.client.get("/items/7/stock", headers={"X-Trace-ID": "hangs-1"})
    assert (answer.status_code, answer.json()["detail"]["code"]) == (504, "DOWNSTREAM_TIMEOUT")
    assert time.monotonic() - started < 30, "it hangs for a minute"
    (line,) = eventually(
        lambda: [li for li in service.lines_of("hangs-1") if li["logger"].startswith("app.core.client")]
    )
    assert (line["downstream"], line["outcome"], line["service"]) == ("inventory", "timeout", __title__)

    stub.answer(reply(500))
    refused = eventually(lambda: service.client.get("/items/7/stock").headers.get("Retry-After"))
    assert 1 <= int(refused) <= 5
    metrics = service.client.get("/metrics").text
    for sample in (
        r'downstream_requests_total{outcome="ok",service="inventory"} 1\.0',
        r'downstream_requests_total{outcome="timeout",service="inventory"} [1-9]',
        r'downstream_breaker_state{service="inventory"} 2\.0',
    ):
        assert re.search(sample, metrics), sample
    assert stub.url not in service.log.read_text()
