"""The items routes, each on real PostgreSQL."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import SQL
from tests.support.errors import assert_error
from tests.support.service import Service

LAMP = {"name": "Lamp", "price": 19.99, "description": "It shines."}


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    """Create an item, a lamp unless told otherwise."""
    response = client.post("/items", json={**LAMP, **fields})
    assert response.status_code == 201, response.text
    item: dict[str, Any] = response.json()
    return item


def test_creates_an_item(client: TestClient, sql: SQL) -> None:
    response = client.post("/items", json=LAMP)

    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    item = response.json()
    assert item.keys() == {"id", "name", "price", "description", "created_at", "updated_at"}
    assert LAMP.items() <= item.items()
    assert response.headers["location"] == f"/items/{item['id']}"
    assert sql("SELECT id, name, price, description FROM items") == [
        (item["id"], "Lamp", Decimal("19.99"), "It shines.")
    ]
    assert client.get(response.headers["location"]).json() == item


def test_times_are_rfc_3339_in_utc_and_now(client: TestClient) -> None:
    item = create(client)

    for moment in (item["created_at"], item["updated_at"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", moment)
        assert abs(datetime.fromisoformat(moment) - datetime.now(UTC)) < timedelta(seconds=60)


@pytest.mark.parametrize("fields", [{}, {"description": None}])
def test_description_is_optional(client: TestClient, fields: dict[str, Any]) -> None:
    response = client.post("/items", json={"name": "Lamp", "price": 1, **fields})

    assert response.status_code == 201
    assert response.json()["description"] is None


@pytest.mark.parametrize(
    "price",
    [
        "0.01",
        "0.1",
        "0.10",
        "1",
        "1.00",
        "19.99",
        "0.29",
        "0.07",
        "1.1",
        "9999999999.99",
        "1234567890.12",
        "1e3",
        "5e-2",
    ],
)
def test_money_comes_back_as_it_was_sent(client: TestClient, sql: SQL, price: str) -> None:
    response = client.post(
        "/items", content=f'{{"name": "Lamp", "price": {price}}}', headers={"Content-Type": "application/json"}
    )

    assert response.status_code == 201, response.text
    again = client.get(response.headers["location"])
    for text in (response.text, again.text):
        assert json.loads(text, parse_float=Decimal, parse_int=Decimal)["price"] == Decimal(price)
        assert not isinstance(json.loads(text)["price"], str)
    assert sql("SELECT price FROM items") == [(Decimal(price),)]


def test_every_cent_survives_the_round_trip(client: TestClient, sql: SQL) -> None:
    """A price is a double on its way out: the text of each must be the price that is stored."""
    sql("INSERT INTO items (name, price) SELECT 'x', n / 100.0 FROM generate_series(1, 100) AS n")
    sql("INSERT INTO items (name, price) SELECT 'x', 9999999999.99 - n / 100.0 FROM generate_series(0, 99) AS n")
    stored = dict(sql("SELECT id, price FROM items"))

    text = [client.get("/items", params={"limit": 100, "sort": sort}).text for sort in ("id", "-id")]
    items = [item for page in text for item in json.loads(page, parse_float=Decimal)["items"]]

    assert {item["id"]: item["price"] for item in items} == stored
    assert len(stored) == 200


@pytest.mark.parametrize(
    "name", ["Lamp", "x", "9", "ランプ", "лампа", "مصباح", "दप", "Größe", "²", "Ⅷ", "𠀋", "x" * 255, "字" * 255]
)
def test_names_of_every_script_are_kept(client: TestClient, name: str) -> None:
    assert name.isalnum()

    item = create(client, name=name)

    assert client.get(f"/items/{item['id']}").json()["name"] == name


@pytest.mark.parametrize(
    "description", ["", " ", "x" * 10_000, "字" * 10_000, '😀\n\t"\\\x01\x7f', "'; DROP TABLE items; --"]
)
def test_descriptions_are_kept_as_they_are(client: TestClient, description: str) -> None:
    item = create(client, description=description)

    assert client.get(f"/items/{item['id']}").json()["description"] == description


def test_a_row_inserted_by_sql_with_name_and_price_is_a_whole_item(client: TestClient, sql: SQL) -> None:
    [(item_id,)] = sql("INSERT INTO items (name, price) VALUES ('Lamp', 19.99) RETURNING id")

    item = client.get(f"/items/{item_id}").json()

    assert (item["name"], item["price"], item["description"]) == ("Lamp", 19.99, None)
    assert item["created_at"] == item["updated_at"]
    assert client.get("/items").json()["items"] == [item]
    assert client.patch(f"/items/{item_id}", json={"price": 5}).json()["price"] == 5
    assert client.delete(f"/items/{item_id}").status_code == 204


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "HEAD"])
@pytest.mark.parametrize("item_id", [7, 2**31, 2**63 - 1])
def test_an_item_that_is_not_there_is_404(client: TestClient, method: str, item_id: int) -> None:
    content: dict[str, Any] = {"json": {"price": 1}} if method == "PATCH" else {}
    response = client.request(method, f"/items/{item_id}", **content)

    if method == "HEAD":
        assert response.status_code == 404
    else:
        assert assert_error(response, 404, "ITEM_NOT_FOUND")["message"] == f"Item {item_id} not found"


def test_patch_changes_what_it_names_and_nothing_else(client: TestClient, sql: SQL) -> None:
    item, other = create(client), create(client)
    sql("UPDATE items SET created_at = created_at - interval '1 hour', updated_at = updated_at - interval '1 hour'")
    item, other = (client.get(f"/items/{i['id']}").json() for i in (item, other))

    response = client.patch(f"/items/{item['id']}", json={"price": 0.5})

    assert response.status_code == 200
    patched = response.json()
    assert patched["updated_at"] > item["updated_at"]
    assert patched == {**item, "price": 0.5, "updated_at": patched["updated_at"]}
    assert client.get(f"/items/{item['id']}").json() == patched
    assert client.get(f"/items/{other['id']}").json() == other


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/merge-patch+json", "application/json; charset=utf-8"]
)
def test_patch_takes_json_and_merge_patch(client: TestClient, media_type: str) -> None:
    item = create(client)

    response = client.patch(f"/items/{item['id']}", content='{"name": "Torch"}', headers={"Content-Type": media_type})

    assert response.status_code == 200
    assert response.json()["name"] == "Torch"


def test_patch_with_null_clears_the_description(client: TestClient) -> None:
    item = create(client)

    assert client.patch(f"/items/{item['id']}", json={"description": None}).json()["description"] is None
    assert client.get(f"/items/{item['id']}").json()["description"] is None


def test_an_empty_patch_changes_nothing(client: TestClient) -> None:
    item = create(client)

    assert client.patch(f"/items/{item['id']}", json={}).json() == item
    assert client.get(f"/items/{item['id']}").json() == item


@pytest.mark.parametrize(
    "patch",
    [
        {"name": None},
        {"price": None},
        {"name": ""},
        {"name": "two words"},
        {"price": 0},
        {"price": "1"},
        {"id": 9},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"colour": "red"},
        {"name": "ok", "price": 1.001},
        [],
        None,
        "x",
        1,
        [{"op": "remove", "path": "/description"}],
    ],
)
def test_a_bad_patch_changes_nothing(client: TestClient, patch: object) -> None:
    item = create(client)

    assert_error(client.patch(f"/items/{item['id']}", json=patch), 422, "INVALID_INPUT")

    assert client.get(f"/items/{item['id']}").json() == item


def test_deletes_an_item_once(client: TestClient, sql: SQL) -> None:
    item, other = create(client), create(client)

    response = client.delete(f"/items/{item['id']}")

    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    assert sql("SELECT id FROM items") == [(other["id"],)]
    for method in ("GET", "DELETE"):
        assert_error(client.request(method, f"/items/{item['id']}"), 404, "ITEM_NOT_FOUND")


@pytest.mark.parametrize(
    "path", ["/items", "/items?limit=1", "/items/1", "/health/live", "/health/ready", "/openapi.json"]
)
def test_head_is_get_without_the_body(service: Service, path: str) -> None:
    service.client.post("/items", json=LAMP)
    get, head = service.client.get(path), service.client.head(path)

    changing = ("date", "x-trace-id")
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }
    # Nothing of a body is left on the wire for the next answer.
    assert service.client.get("/health/live").json() == {"status": "alive"}


def test_an_answer_means_that_another_connection_sees_it(client: TestClient, sql: SQL) -> None:
    seen: Callable[[], list[tuple[Any, ...]]] = lambda: sql("SELECT name, price FROM items")  # noqa: E731

    item = create(client, price=1)
    assert seen() == [("Lamp", 1)]
    client.patch(f"/items/{item['id']}", json={"price": 2})
    assert seen() == [("Lamp", 2)]
    client.delete(f"/items/{item['id']}")
    assert seen() == []
