"""A request has one trace id, wherever it shows."""

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, text
from starlette.testclient import TestClient

from tests.conftest import MakeClient
from tests.support.routes import serve
from tests.support.service import Service, eventually

Logs = Callable[[], list[dict[str, Any]]]


NEW = re.compile(r"[0-9a-f]{32}")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("given", ["a", "7", "A.b_C-9", "x" * 128, TRACE, "..", "-"])
def test_a_good_id_is_kept(client: TestClient, given: str) -> None:
    assert client.get("/health/live", headers={"X-Trace-ID": given}).headers["x-trace-id"] == given


BAD = [
    b"",
    b" ",
    b"x" * 129,
    b"x" * 10_000,
    b"a b",
    b'a"b',
    b"a'b",
    b"a\\b",
    b"a\rb",
    b"a\nb",
    b"a\r\nX-Evil: 1",
    b"a\n",
    b"a\0b",
    b"a\tb",
    b"a/b",
    b"a:b",
    b"a,b",
    b"\xe9",
    "é".encode(),
    b"\xff",
    b"{}",
    b"%0a",
    b"<b>",
    b"a\x1b[31m",
    b"a\x7f",
]


@pytest.mark.parametrize("given", BAD, ids=lambda given: repr(given[:12]))
def test_a_bad_id_is_replaced_and_not_logged(
    client: TestClient, logs: Callable[[], list[dict[str, Any]]], given: bytes
) -> None:
    response = client.get("/things/1", headers=[(b"X-Trace-ID", given)])

    trace_id = response.headers["x-trace-id"]
    assert NEW.fullmatch(trace_id)
    assert response.json()["trace_id"] == trace_id
    assert {line["trace_id"] for line in logs() if line["logger"].startswith("app.")} == {trace_id}
    assert "x-evil" not in response.headers
    if len(given) > 2:
        assert given.decode("latin-1") not in str(logs())


@pytest.mark.parametrize(
    "parent",
    [
        PARENT,
        f"00-{TRACE}-00f067aa0ba902b7-00",
        f"01-{TRACE}-00f067aa0ba902b7-01-more",
        f"cc-{TRACE}-00f067aa0ba902b7-ff",
    ],
)
def test_the_trace_id_of_a_traceparent_is_taken(client: TestClient, parent: str) -> None:
    assert client.get("/health/live", headers={"traceparent": parent}).headers["x-trace-id"] == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE}-00f067aa0ba902b7-1",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"00-{TRACE[:-1]}-00f067aa0ba902b7-01",
        f"0-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-0g",
        f" {TRACE}",
        "",
        "x" * 10_000,
        f"{PARENT},{PARENT}",
        f"01-{TRACE}-00f067aa0ba902b7-01more",
    ],
)
def test_a_bad_traceparent_counts_as_none(client: TestClient, parent: str) -> None:
    trace_id = client.get("/health/live", headers={"traceparent": parent}).headers["x-trace-id"]

    assert NEW.fullmatch(trace_id)
    assert trace_id not in parent.lower()


def test_our_header_goes_before_traceparent_unless_it_is_bad(client: TestClient) -> None:
    ids = {
        given: client.get("/health/live", headers={"X-Trace-ID": given, "traceparent": PARENT}).headers["x-trace-id"]
        for given in ("ours", "bad id")
    }
    assert ids == {"ours": "ours", "bad id": TRACE}


def test_an_id_that_is_sent_twice_counts_only_if_it_is_the_same(client: TestClient) -> None:
    assert client.get("/health/live", headers=[("X-Trace-ID", "a"), ("X-Trace-ID", "a")]).headers["x-trace-id"] == "a"
    assert NEW.fullmatch(
        client.get("/health/live", headers=[("X-Trace-ID", "a"), ("X-Trace-ID", "b")]).headers["x-trace-id"]
    )
    for pair in ([PARENT, PARENT.replace("4bf", "5bf")],):
        headers = [("traceparent", parent) for parent in pair]
        assert NEW.fullmatch(client.get("/health/live", headers=headers).headers["x-trace-id"])


def test_new_ids_differ(client: TestClient) -> None:
    assert len({client.get("/health/live").headers["x-trace-id"] for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/things"),
        ("POST", "/things"),
        ("GET", "/things/x"),
        ("PUT", "/things"),
        ("GET", "/nothing"),
        ("HEAD", "/things"),
        ("GET", "/metrics"),
        ("GET", "/health/ready"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("OPTIONS", "/things"),
    ],
)
def test_every_answer_of_the_service_has_it_once(service: Service, method: str, path: str) -> None:
    response = service.client.request(method, path, headers={"X-Trace-ID": "mine"})

    assert response.headers.get_list("x-trace-id") == ["mine"]
    if response.status_code >= 400 and method != "HEAD":
        assert response.json()["trace_id"] == "mine"


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Trace-ID: a\rb\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_one_too(service: Service, request_: bytes) -> None:
    head, _, body = service.raw(request_).partition(b"\r\n\r\n")

    found = re.search(rb"(?i)\r\nx-trace-id: ([0-9a-f]{32})(\r\n|$)", head)
    assert head.startswith(b"HTTP/1.1 4")
    assert found
    assert found[1] in body


def test_every_line_of_a_request_has_it_also_those_of_a_store(make_client: MakeClient, logs: Logs) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(0.05)"))
        logging.getLogger("store").warning("after a statement")

    client = make_client()
    serve(client, "/test", work)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: client.get("/test", headers={"X-Trace-ID": f"store-{n}"}), range(4)))

    said = sorted(line["trace_id"] for line in logs() if line["logger"] == "store")
    assert said == [f"store-{n}" for n in range(4)]


def test_concurrent_requests_keep_theirs_apart(service: Service) -> None:
    names = [f"apart-{n}" for n in range(200)]

    def ask(name: str) -> tuple[str, str]:
        response = service.client.get("/things/999999999", headers={"X-Trace-ID": name})
        return response.headers["x-trace-id"], response.json()["trace_id"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, names))

    assert answers == [(name, name) for name in names]

    def logged() -> list[str]:
        return [line["trace_id"] for line in service.lines() if line.get("trace_id", "").startswith("apart-")]

    eventually(lambda: len(logged()) >= len(names))
    assert sorted(logged()) == sorted(names)


def test_no_id_is_left_over_outside_of_requests(service: Service) -> None:
    service.client.get("/things", headers={"X-Trace-ID": "left-over"})

    for line in service.lines():
        if line["logger"] in {"gunicorn.error", "uvicorn.error"}:
            assert "trace_id" not in line
