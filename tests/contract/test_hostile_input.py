"""Whatever is sent to the real service gets its 4xx, its code and its envelope, and changes nothing."""

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.hostile import BAD_IDS
from tests.support.http import JSON, assert_refused, parse, send
from tests.support.service import Service

MAX_BODY = 1024 * 1024
DEEP = 100_000
GOOD = b'{"name": "Lamp", "price": 1}'


@pytest.fixture(autouse=True)
def kept(service: Service) -> Iterator[dict[str, Any]]:
    """Make an item; after the test it is as it was, it is the newest, and nothing was worse than a 4xx."""
    created = service.client.post("/items", json={"name": "Kept", "price": 19.99})
    item: dict[str, Any] = created.json()
    before = len(service.lines())
    yield item
    now = service.client.get(created.headers["location"])
    assert now.json() == item
    assert now.headers["etag"] == created.headers["etag"]
    assert service.client.get("/items?sort=-id&limit=1").json()["items"] == [item]
    service.logged(now.headers["x-trace-id"])
    bad = [line for line in service.lines()[before:] if line.get("status", 0) >= 500 or line["level"] == "ERROR"]
    assert not bad


def member(name: str, value: str) -> bytes:
    """Make an item whose one member is given as raw JSON."""
    members = {"name": '"Lamp"', "price": "1", name: value}
    return ("{" + ", ".join(f'"{key}": {text}' for key, text in members.items()) + "}").encode()


BAD_BODIES = {
    "nothing": b"",
    "NUL in a name": member("name", '"a\\u0000b"'),
    "NUL in a description": member("description", '"a\\u0000b"'),
    "raw NUL": member("description", '"a\0b"'),
    "NUL alone": b"\0",
    "high surrogate": member("description", '"\\ud83d"'),
    "low surrogate": member("name", '"\\ude00"'),
    "surrogates swapped": member("description", '"\\ude00\\ud83d"'),
    "surrogate as member name": member("\\ud800", "1"),
    "surrogate as UTF-8": b'{"name": "\xed\xa0\xbd", "price": 1}',
    "NaN": member("price", "NaN"),
    "Infinity": member("price", "Infinity"),
    "-Infinity": member("price", "-Infinity"),
    "1e400": member("price", "1e400"),
    "-1e400": member("price", "-1e400"),
    "-0": member("price", "-0"),
    "-0.0": member("price", "-0.0"),
    "1e-400": member("price", "1e-400"),
    "exponent of 20 digits": member("price", "1e99999999999999999999"),
    "negative exponent of 20 digits": member("price", "1e-99999999999999999999"),
    "exponent of 5,000 digits": member("price", "1e" + "9" * 5000),
    "5,000 digits": member("price", "9" * 5000),
    "-5,000 digits": member("price", "-" + "9" * 5000),
    "5,000 decimals": member("price", "0." + "0" * 5000 + "1"),
    "price as text": member("price", '"1"'),
    "5,000 digits elsewhere": member("description", "9" * 5000),
    "same name twice": b'{"name": "a", "price": 1, "name": "a"}',
    "same name twice, escaped": b'{"name": "a", "price": 1, "\\u006eame": "a"}',
    "same name twice, deeper": member("description", '{"a": 1, "a": 1}'),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without BOM": GOOD.decode().encode("utf-16-le"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "Latin-1": '{"name": "Größe", "price": 1}'.encode("latin-1"),
    "overlong UTF-8": b'{"name": "\xc0\x80", "price": 1}',
    "100,000 lists": b"[" * DEEP,
    "100,000 lists, closed": member("description", "[" * DEEP + "]" * DEEP),
    "100,000 objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "gzip bytes": gzip.compress(GOOD),
    "a form": b"name=Lamp&price=1",
    "two values": GOOD + GOOD,
    "unknown member": member("colour", "1"),
    "half of it": GOOD[:-1],
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body(service: Service, kept: dict[str, Any], body: bytes) -> None:
    item = f"/items/{kept['id']}"
    for method, target, sent in [
        ("POST", "/items", body),
        ("POST", "/items/batch", b'{"items": [' + GOOD + b", " + body + b"]}"),
        ("PATCH", item, body),
    ]:
        for chunked in (False, True):
            answer = send(service.port, method, target, JSON, body=sent, chunked=chunked)
            detail = assert_refused(answer, 422, "INVALID_INPUT")
            assert detail["errors"]
            assert {"loc", "msg", "type"} == detail["errors"][0].keys()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_may_be_as_long_as_the_limit_and_no_longer(
    service: Service, kept: dict[str, Any], method: str, *, chunked: bool
) -> None:
    target = "/items" if method == "POST" else f"/items/{kept['id']}"
    body = b"{}".ljust(MAX_BODY)

    fits = send(service.port, method, target, JSON, body=body, chunked=chunked)
    too_long = send(service.port, method, target, JSON, body=body + b" ", chunked=chunked)

    assert fits.status == (422 if method == "POST" else 200)  # an empty patch changes nothing
    assert_refused(too_long, 413, "PAYLOAD_TOO_LARGE")


def test_a_body_as_long_as_the_limit_makes_an_item(service: Service) -> None:
    answer = send(service.port, "POST", "/items", JSON, body=GOOD.ljust(MAX_BODY))

    assert answer.status == 201
    assert service.client.delete(answer.headers["location"]).status_code == 204


@pytest.mark.parametrize("declared", ["1048577", "9223372036854775807", "18446744073709551615"])
def test_a_declared_length_is_refused_before_the_body_comes(service: Service, declared: str) -> None:
    assert_refused(send(service.port, "POST", "/items", JSON, ("Content-Length", declared)), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("declared", ["-1", "+5", "0x10", "1e3", "5 5", "", "18446744073709551616", "9" * 5000])
def test_a_length_that_is_none(service: Service, declared: str) -> None:
    assert_refused(send(service.port, "POST", "/items", JSON, ("Content-Length", declared)), 400, "INVALID_INPUT")


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "28"), ("Content-Length", "29")],
        [("Content-Length", "28"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked, identity")],
        [("Transfer-Encoding", "gzip")],
    ],
)
def test_framing_that_can_be_read_in_two_ways(service: Service, headers: list[tuple[str, str]]) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    raw = b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head + b"\r\n" + GOOD

    assert_refused(parse(service.raw(raw)), 400, "INVALID_INPUT")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Content-Type", "")],
        [("Content-Type", "text/plain")],
        [("Content-Type", "application/x-www-form-urlencoded")],
        [("Content-Type", "multipart/form-data; boundary=x")],
        [("Content-Type", "application/jsonx")],
        [("Content-Type", "application/json, text/plain")],
        [("Content-Type", b"application/json\xff")],
        [JSON, ("Content-Type", "text/plain")],
        [JSON, ("Content-Encoding", "gzip")],
        [JSON, ("Content-Encoding", "br")],
        [JSON, ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")],
    ],
    ids=repr,
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_not_said_to_be_json(service: Service, headers: list[tuple[str, str]], *, chunked: bool) -> None:
    for body in (GOOD, gzip.compress(GOOD)):
        answer = send(service.port, "POST", "/items", *headers, body=body, chunked=chunked)
        assert_refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("item_id", BAD_IDS, ids=lambda item_id: item_id[:30])
def test_a_bad_id(service: Service, item_id: str) -> None:
    for method, body in (("GET", None), ("PATCH", b'{"price": 2}'), ("DELETE", None)):
        answer = send(service.port, method, f"/items/{item_id}", JSON, body=body)
        detail = assert_refused(answer, 422, "INVALID_INPUT")
        assert detail["errors"][0]["loc"] == ["path", "item_id"]


def test_the_greatest_id_is_one(service: Service) -> None:
    assert_refused(send(service.port, "GET", f"/items/{2**63 - 1}"), 404, "ITEM_NOT_FOUND")


BAD_QUERIES = [
    "limit=-1",
    "limit=0",
    "limit=101",
    "limit=1" + "0" * 30,
    "limit=" + "9" * 5000,
    "limit=",
    "limit=1.0",
    "limit=+1",
    "limit=%2B1",
    "limit=1_0",
    "limit=%D9%A1",
    "limit=1&limit=2",
    "limit=1&limit=1",
    "limit=1&%6Cimit=2",
    "sort=id&sort=name",
    "name=a&name=b",
    "cursor=a&cursor=a",
    "limit=NaN",
    "limit=1%00",
    "sort=version",
    "sort=%00",
    "sort=",
    "name=",
    "name=%00",
    "name=a%00b",
    "name=%FF",
    "name=%ED%A0%80",
    "name=%C0%80",
    "name=" + "a" * 256,
    "%FF=1",
    "%00=1",
    "min_price=-0.01",
    "min_price=NaN",
    "min_price=Infinity",
    "max_price=1e400",
    "max_price=1e-400",
    "max_price=0.001",
    "max_price=" + "9" * 5000,
    "min_price=1_0",
    "max_price=%D9%A1",
    "max_price=10000000000",
    "colour=1",
    "cursor=",
    "cursor=%00",
    "cursor=x",
    "cursor=" + "A" * 4097,
    "cursor=" + "A" * 8_000,
    "cursor=%F0%9F%98%80",
]


@pytest.mark.parametrize("query", BAD_QUERIES, ids=lambda query: query[:30])
def test_a_bad_query(service: Service, query: str) -> None:
    detail = assert_refused(send(service.port, "GET", f"/items?{query}"), 422, "INVALID_INPUT")

    assert detail["errors"][0]["loc"][0] == "query"


@pytest.mark.parametrize("query", [b"name=\xc3\xa9", b"name=\xff", b"\xff=1"])
def test_a_query_that_is_not_percent_encoded(service: Service, query: bytes) -> None:
    answer = send(service.port, "GET", b"/items?" + query)

    assert answer.status in {400, 422}
    assert_refused(answer, answer.status, "INVALID_INPUT")


def test_forged_cursors(service: Service) -> None:
    service.client.post("/items/batch", json={"items": [{"name": "Cursor", "price": 1}] * 3}).raise_for_status()
    listed = service.client.get("/items?name=Cursor&limit=1").json()
    cursor = listed["next_cursor"]
    forged = [
        cursor[:-1],
        cursor[1:],
        cursor[4:],
        cursor + "A",
        cursor * 2,
        cursor.swapcase(),
        cursor[::-1],
        cursor.encode().hex(),
    ]

    for bad in forged:
        assert_refused(send(service.port, "GET", f"/items?name=Cursor&limit=1&cursor={bad}"), 422, "INVALID_INPUT")
    for foreign in ("", "sort=-id&name=Cursor&", "name=Curso&", "name=Cursor&min_price=1&", "sort=name&name=Cursor&"):
        assert_refused(send(service.port, "GET", f"/items?{foreign}cursor={cursor}"), 422, "INVALID_INPUT")
    for item in service.client.get("/items?name=Cursor").json()["items"]:
        service.client.delete(f"/items/{item['id']}")


@pytest.mark.parametrize(
    "hosts", [[], ["x", "x"], ["x", "y"], [""], ["a b"], ["a,b"], ["a/b"], [b"\xff"], ["x\0"]], ids=repr
)
def test_there_is_one_host(service: Service, hosts: list[str]) -> None:
    answer = send(service.port, "GET", "/items", *(("Host", host) for host in hosts), host=False)

    if hosts == [""]:  # RFC 9112, section 3.2: an empty one is one
        assert answer.status == 200
    else:
        assert_refused(answer, 400, "INVALID_INPUT")


@pytest.mark.parametrize(
    "headers",
    [
        [(f"X-{n}", "x") for n in range(200)],
        [("X", "x" * 60_000)],
        [("X" * 60_000, "x")],
        [(f"X-{n}", "x" * 6000) for n in range(10)],
        [("Cookie", "a=b; " * 12_000)],
        [("Accept", "application/problem+json, " * 3000)],
    ],
    ids=["200", "60 KB value", "60 KB name", "10 of 6 KB", "60 KB cookie", "75 KB accept"],
)
def test_header_fields_have_a_bound(service: Service, headers: list[tuple[str, str]]) -> None:
    assert_refused(send(service.port, "GET", "/items", *headers), 431, "INVALID_INPUT")


def test_a_target_has_a_bound(service: Service) -> None:
    assert_refused(send(service.port, "GET", "/items?name=" + "a" * 60_000), 414, "INVALID_INPUT")


def test_the_parameters_of_a_query_have_a_bound(service: Service) -> None:
    for number, kind in ((500, "duplicate"), (501, "too_many_values")):
        detail = assert_refused(send(service.port, "GET", "/items?" + "&".join(["a=1"] * number)), 422, "INVALID_INPUT")
        assert [problem["type"] for problem in detail["errors"]] == [kind]


def test_the_parameters_that_come_twice_are_not_all_named(service: Service) -> None:
    answer = send(service.port, "GET", "/items?" + "&".join(f"%01%01{n}&%01%01{n}" for n in range(249)))
    problems = assert_refused(answer, 422, "INVALID_INPUT")["errors"]
    assert (len(problems), problems[-1]["msg"], len(answer.body) < 16 * 1024) == (21, "and 229 more", True)


def test_the_tags_of_a_condition_have_a_bound(service: Service) -> None:
    for field in "If-None-Match", "If-Match":
        answer = send(service.port, "DELETE", "/items/1", (field, '"x", ' * 1_000))
        assert_refused(answer, 431, "INVALID_INPUT")
    assert send(service.port, "GET", "/items?limit=1", ("If-None-Match", '"x", ' * 1_000)).status == 200


BAD_TRACE_IDS = [
    b'a"b',
    b"a b",
    b"a\tb",
    b"a,b",
    b"",
    b"a/b",
    b"a\\b",
    "é".encode(),
    b"\xff\xfe",
    "\uff41".encode(),
    b"x" * 129,
    b"x" * 10_240,
    b"<script>",
    b"%0d%0a",
    b"{}",
    b"a;b",
]


@pytest.mark.parametrize("trace_id", BAD_TRACE_IDS, ids=lambda trace_id: repr(trace_id[:12]))
def test_a_bad_trace_id_is_replaced(service: Service, trace_id: bytes) -> None:
    for target, status in (("/items", 200), ("/nowhere", 404), ("/items/x", 422)):
        answer = send(service.port, "GET", target, ("X-Trace-ID", trace_id))
        assert answer.status == status
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-trace-id"])
        lines = service.logged(answer.headers["x-trace-id"])
        assert lines
        assert not trace_id or trace_id.decode("latin-1") not in json.dumps(lines, ensure_ascii=False)


@pytest.mark.parametrize(
    "trace_id", [b"a\r\nSet-Cookie: a=b", b"a\nSet-Cookie: a=b", b"a\rSet-Cookie: a=b", b"a\0b", b"a\x7fb", b"a\x1bb"]
)
def test_a_trace_id_injects_nothing(service: Service, trace_id: bytes) -> None:
    answer = send(service.port, "GET", "/items/x", ("X-Trace-ID", trace_id))

    assert "set-cookie" not in answer.headers
    assert_refused(answer, 422 if answer.status == 422 else 400, "INVALID_INPUT")


BAD_KEYS: dict[str, list[str | bytes]] = {
    "empty": [""],
    "256 characters": ["k" * 256],
    "10 KB": ["k" * 10_240],
    "not ASCII": ["é"],
    "Latin-1": [b"\xe9"],
    "space": ["a b"],
    "tab": ["a\tb"],
    "twice": ["a", "a"],
    "two": ["a", "b"],
    "one empty": ["a", ""],
}


@pytest.mark.parametrize("keys", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_bad_idempotency_key(service: Service, keys: list[str]) -> None:
    headers = [("Idempotency-Key", key) for key in keys]
    for target, body in (("/items", GOOD), ("/items/batch", b'{"items": [' + GOOD + b"]}")):
        detail = assert_refused(send(service.port, "POST", target, JSON, *headers, body=body), 422, "INVALID_INPUT")
        assert [part.lower() for part in detail["errors"][0]["loc"]] == ["header", "idempotency-key"]


def test_a_key_of_255_characters_is_one(service: Service) -> None:
    answer = send(service.port, "POST", "/items", JSON, ("Idempotency-Key", "~" * 254 + "!"), body=GOOD)

    assert answer.status == 201
    assert service.client.delete(answer.headers["location"]).status_code == 204


@pytest.mark.parametrize(
    "tag",
    ["", "3", "'1'", '"', "W/", 'W/"1"', '"1', b"\xff", '"\x80"', "x" * 4_000, '"*"', "*, *", "null", ",", ",,,"],
)
def test_a_bad_entity_tag_matches_nothing(service: Service, kept: dict[str, Any], tag: str) -> None:
    item = f"/items/{kept['id']}"

    for method, body in (("PATCH", b'{"price": 2}'), ("DELETE", None)):
        answer = send(service.port, method, item, JSON, ("If-Match", tag), body=body)
        assert_refused(answer, 412, "PRECONDITION_FAILED")
    if tag != 'W/"1"':
        assert send(service.port, "GET", item, ("If-None-Match", tag)).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/item",
        "//items",
        "/items/1/2",
        "/ITEMS",
        "/%00",
        "/%FF",
        "/..",
        "/items/../items/1/x",
    ],
)
def test_paths_that_are_not_there(service: Service, path: str) -> None:
    assert_refused(send(service.port, "GET", path), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/items/", "/items/1/"])
def test_a_slash_too_many_is_redirected(service: Service, path: str) -> None:
    answer = send(service.port, "GET", path)

    assert (answer.status, answer.headers["location"]) == (307, f"http://x{path[:-1]}")


@pytest.mark.parametrize("method", ["PUT", "TRACE", "OPTIONS", "PROPFIND", "DELETE", "PATCH"])
def test_methods_that_are_not_there(service: Service, method: str) -> None:
    answer = send(service.port, method, "/items")

    assert_refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n\r\nx\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /items\r\n\r\n",
        b"GET /items HTTP/9.9\r\nHost: x\r\n\r\n",
        b"get /items HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /items HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /it ems HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /items\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /items HTTP/1.1\r\nHost: x\r\nX\r\n\r\n",
        b"GET /items HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        b"GET /items HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET /items HTTP/1.1\r\nHost: x\r\n X: folded\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /items HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_http(service: Service, raw: bytes) -> None:
    assert_refused(parse(service.raw(raw)), 400, "INVALID_INPUT")
