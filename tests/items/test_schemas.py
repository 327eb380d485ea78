"""No input makes an item that is none, or a 5xx; what is wrong is said, and never quoted."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import SQL
from tests.support.errors import assert_error
from tests.support.hostile import BAD_IDS

JSON = {"Content-Type": "application/json"}
SECRET = "geheim"  # noqa: S105 - it stands for what a client sent by mistake


def refused(client: TestClient, body: str | bytes) -> list[dict[str, Any]]:
    """Post a body that is refused without an echo, and return what is said to be wrong."""
    response = client.post("/items", content=body, headers=JSON)
    detail = assert_error(response, 422, "INVALID_INPUT")
    assert SECRET not in response.text
    errors: list[dict[str, Any]] = detail["errors"]
    return errors


@pytest.mark.parametrize(
    "name",
    [
        '""',
        "null",
        "1",
        "true",
        "[]",
        "{}",
        '["geheim"]',
        '"zwei geheim"',
        '" geheim"',
        '"geheim\\n"',
        '"geheim-1"',
        '"geheim_1"',
        '"geheim\\u0000"',
        '"\\u0000"',
        '"geheim\\ud800"',
        '"\\udfff"',
        '"\\ud83d\\ude00"',
        '"e\\u0301"',
        '"\\u200b"',
        f'"{"x" * 256}"',
        '"%"',
        '"<geheim>"',
    ],
)
def test_bad_names_are_refused(client: TestClient, sql: SQL, name: str) -> None:
    errors = refused(client, f'{{"name": {name}, "price": 1}}')

    assert errors[0]["loc"][:2] in (["body", "name"], ["body", 0])
    assert sql("SELECT count(*) FROM items") == [(0,)]


@pytest.mark.parametrize(
    "price",
    [
        "0",
        "-0",
        "0.0",
        "-0.0",
        "-1",
        "-0.01",
        "0.001",
        "1.001",
        "1e-3",
        "1e-400",
        "1e400",
        "-1e400",
        "10000000000",
        "9999999999.991",
        "9999999999.999",
        "1e10",
        "1e999999999",
        "1e-999999999999999999999",
        "0." + "0" * 5000 + "1",
        "1" * 13,
        "9" * 5000,
        "-" + "9" * 5000,
        "1." + "0" * 5000 + "1",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "+1",
        "01",
        "1.",
        ".5",
        "0x10",
        "1_0",
        '"1"',
        '"1.5"',
        '"geheim"',
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[1]",
    ],
)
def test_bad_prices_are_refused(client: TestClient, sql: SQL, price: str) -> None:
    refused(client, f'{{"name": "Lamp", "price": {price}}}')

    assert sql("SELECT count(*) FROM items") == [(0,)]


@pytest.mark.parametrize(
    "description",
    ["1", "true", "[]", "{}", f'"{"x" * 10_001}"', '"geheim\\u0000"', '"geheim\\ud800"', '"\\udc00\\ud800"'],
)
def test_bad_descriptions_are_refused(client: TestClient, sql: SQL, description: str) -> None:
    refused(client, f'{{"name": "Lamp", "price": 1, "description": {description}}}')

    assert sql("SELECT count(*) FROM items") == [(0,)]


DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        "{",
        "}",
        "nul",
        "null",
        "[]",
        "1",
        '"geheim"',
        "{}",
        "{'name': 'geheim'}",
        '{"name": "geheim", "price": 1',
        '{"name": "geheim", "price": 1,}',
        '{"name": "geheim", "price": 1} {}',
        '{"name": "geheim", "price": 1}\0',
        "NaN",
        "Infinity",
        '{"name": "geheim", "name": "geheim", "price": 1}',
        '{"name": "geheim", "price": 1, "price": 2}',
        '{"name": "geheim", "price": 1, "description": {"geheim": 1, "geheim": 2}}',
        '{"name": "geheim", "price": 1, "geheim2": 1}',
        '{"name": "geheim", "price": 1, "id": 1}',
        '{"name": "geheim", "price": 1, "": 1}',
        '{"name": "geheim", "price": 1, "\\ud800": 1}',
        '{"name": "geheim", "price": 1, "\\u0000": 1}',
        '{"Name": "geheim", "price": 1}',
        '{"name": "geheim\t", "price": 1}',
        "// geheim",
        '{"name": "geheim", /* */ "price": 1}',
        "[" * DEEP,
        "[" * DEEP + "]" * DEEP,
        '{"a":' * DEEP + "1" + "}" * DEEP,
        '{"name": "x", "price": ' + "[" * DEEP + "]" * DEEP + "}",
        "9" * 5000,
        "-" + "9" * 100_000,
        '{"name": "x", "price": 1, "description": ' + "9" * 5000 + "}",
        "1e" + "9" * 5000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_bad_json_is_refused(client: TestClient, sql: SQL, body: str) -> None:
    if '"geheim2"' in body:
        body = body.replace("geheim2", "colour")
    errors = refused(client, body.encode())

    assert errors
    assert sql("SELECT count(*) FROM items") == [(0,)]


GOOD = '{"name": "geheim", "price": 1}'


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"\x00",
        b"\x00" * 100,
        bytes(range(256)),
        GOOD.encode("utf-16"),
        GOOD.encode("utf-16-le"),
        GOOD.encode("utf-16-be"),
        GOOD.encode("utf-32"),
        GOOD.encode("utf-8-sig"),
        b'{"name": "geheim\xff", "price": 1}',
        b'{"name": "\xc3\x28", "price": 1}',
        b'{"name": "\xed\xa0\x80", "price": 1}',
        b'{"name": "\xc0\x80", "price": 1}',
        b'{"name": "\xf4\x90\x80\x80", "price": 1}',
        b"\x1f\x8b\x08\x00geheim",
        b"name=geheim&price=1",
        b"<geheim/>",
        b"%PDF-1.7",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bytes_that_are_not_utf_8_json_are_refused(client: TestClient, sql: SQL, body: bytes) -> None:
    refused(client, body)

    assert sql("SELECT count(*) FROM items") == [(0,)]


def test_the_place_of_every_problem_is_named(client: TestClient) -> None:
    errors = refused(client, json.dumps({"name": "geheim geheim", "price": -1, "colour": "geheim"}))

    assert sorted(tuple(problem["loc"]) for problem in errors) == [
        ("body", "colour"),
        ("body", "name"),
        ("body", "price"),
    ]


@pytest.mark.parametrize(
    "member", ["x" * 100_000, "\ud800" * 100_000, "\\u0000"], ids=["long", "lone surrogates", "null"]
)
def test_a_member_name_in_an_answer_is_short_and_valid(client: TestClient, member: str) -> None:
    escaped = member.encode("ascii", "backslashreplace").decode()
    body = f'{{"name": "x", "price": 1, "{escaped}": 1}}'

    response = client.post("/items", content=body, headers=JSON)

    assert_error(response, 422, "INVALID_INPUT")
    assert len(response.content) < 1000


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("item_id", [*BAD_IDS, "..%2F1"], ids=lambda item_id: item_id[:30])
def test_bad_ids_are_refused(client: TestClient, sql: SQL, method: str, item_id: str) -> None:
    sql("INSERT INTO items (name, price) VALUES ('x', 1)")
    content: dict[str, Any] = {"json": {"price": 2}} if method == "PATCH" else {}

    response = client.request(method, f"/items/{item_id}", **content)

    if "%2F" in item_id:
        assert_error(response, 404, "NOT_FOUND")
    else:
        detail = assert_error(response, 422, "INVALID_INPUT")
        assert detail["errors"][0]["loc"] == ["path", "item_id"]
        assert SECRET not in response.text
    assert sql("SELECT name, price FROM items") == [("x", 1)]


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=0",
        "limit=101",
        "limit=1" + "0" * 30,
        "limit=",
        "limit=x",
        "limit=1.0",
        "limit=%2B1",
        "limit=1_0",
        "limit=01",
        "limit=" + "9" * 5000,
        "limit=%D9%A1",
        "limit=NaN",
        "sort=",
        "sort=ID",
        "sort=version",
        "sort=description",
        "sort=--id",
        "sort=%2Bid",
        "sort=id,name",
        "sort=id%00",
        "name=",
        "name=" + "x" * 256,
        "name=%00",
        "name=a%00b",
        "name=%FF",
        "name=%ED%A0%80",
        "min_price=",
        "min_price=-1",
        "min_price=x",
        "min_price=NaN",
        "min_price=Infinity",
        "min_price=1e2",
        "min_price=1_0",
        "min_price=0.001",
        "min_price=10000000000",
        "max_price=-0.01",
        "max_price=nan",
        "max_price=" + "9" * 5000,
        "max_price=%D9%A1",
        "cursor=",
        "cursor=x",
        "limits=1",
        "Limit=1",
        "min_pric=1",
        "%00=1",
        "offset=1",
        "%FF=1",
    ],
    ids=lambda query: query[:30],
)
def test_bad_queries_are_refused(client: TestClient, query: str) -> None:
    detail = assert_error(client.get(f"/items?{query}"), 422, "INVALID_INPUT")

    assert detail["errors"][0]["loc"][0] == "query"


@pytest.mark.parametrize(
    "query",
    [
        "limit=1",
        "limit=100",
        "min_price=0",
        "min_price=0.10",
        "max_price=9999999999.99",
        "min_price=5&max_price=4",
        "name=%25",
        "",
        "&",
    ],
)
def test_good_queries_are_taken(client: TestClient, query: str) -> None:
    assert client.get(f"/items?{query}").json() == {"items": [], "next_cursor": None}
