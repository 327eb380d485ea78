"""Every 4xx and 5xx has one body, whoever raised it, and nothing internal is in it."""

import socket
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from starlette.testclient import TestClient

from app.core.errors import Conflict, InvalidInput, ResourceNotFound
from tests.conftest import MakeClient, StartService
from tests.support.cluster import query
from tests.support.errors import assert_error
from tests.support.routes import serve
from tests.support.service import Service

Logs = Callable[[], list[dict[str, Any]]]


PROBLEM = "application/problem+json"


def test_an_unknown_path_is_404(client: TestClient) -> None:
    for path in ("/", "/nothing", "/things/1/x", "//things", "/THINGS", "/health", "/favicon.ico"):
        assert assert_error(client.get(f"http://testserver{path}"), 404, "NOT_FOUND")["message"] == "Not found"


@pytest.mark.parametrize("path", ["/things", "/things/1"])
def test_a_slash_at_the_end_is_redirected_as_fastapi_does_it(client: TestClient, path: str) -> None:
    for method in ("GET", "PATCH"):
        response = client.request(method, f"{path}/", follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (307, f"http://testserver{path}")
        assert response.headers["x-trace-id"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/things", "GET, HEAD, POST"),
        ("/things/1", "DELETE, GET, HEAD, PATCH"),
        ("/things/geheim", "DELETE, GET, HEAD, PATCH"),
        ("/things/batch", "POST"),
        ("/health/live", "GET, HEAD"),
        ("/health/ready", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
    ],
)
def test_405_allows_every_method_of_the_path(client: TestClient, path: str, allowed: str) -> None:
    for method in {"PUT", "POST", "GET", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND"} - set(allowed.split(", ")):
        response = client.request(method, path)

        assert_error(response, 405, "METHOD_NOT_ALLOWED")
        assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/merge-patch+json"},
        {"Content-Type": "text/json"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "br, gzip"},
    ],
)
def test_a_body_that_is_not_plain_json_is_415(client: TestClient, headers: dict[str, str]) -> None:
    response = client.post("/things", content=b'{"name": "x", "price": 1}', headers=headers)

    assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert response.headers["accept"] == "application/json"


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        " application/json ;x=y",
    ],
)
def test_json_is_json_however_it_is_spelt(client: TestClient, media_type: str) -> None:
    response = client.post("/things", content=b'{"name": "x", "price": 1}', headers={"Content-Type": media_type})

    assert response.status_code == 201


def _sized(size: int) -> bytes:
    return b'{"name": "x", "price": 1}'.ljust(size)


def test_a_body_may_be_as_large_as_the_limit_and_no_larger(make_client: MakeClient) -> None:
    client = make_client(max_body_bytes=100)
    headers = {"Content-Type": "application/json"}

    assert client.post("/things", content=_sized(100), headers=headers).status_code == 201
    assert_error(client.post("/things", content=_sized(101), headers=headers), 413, "PAYLOAD_TOO_LARGE")
    for path in ("/nothing", "/things/1"):
        assert_error(client.put(path, content=_sized(101), headers=headers), 413, "PAYLOAD_TOO_LARGE")


POST = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(("chunk", "count"), [(1_048_577, 1), (1_048_577, 8), (60_000, 18), (1024, 1025)])
def test_a_chunked_body_over_the_limit_is_413_also_for_who_sends_all_of_it_first(
    service: Service, chunk: int, count: int
) -> None:
    piece = b"%x\r\n%s\r\n" % (chunk, b" " * chunk)

    answer = service.raw(POST + b"Transfer-Encoding: chunked\r\n\r\n" + piece * count + b"0\r\n\r\n" + LAST)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"PAYLOAD_TOO_LARGE"' in answer
    assert answer.endswith(b'{"status":"alive"}')  # the connection is as good as before


def test_a_chunked_body_of_the_limit_is_taken(service: Service) -> None:
    body = _sized(1_048_576)
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:1], body[1:30], body[30:]))

    answer = service.raw(POST + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n" + LAST)

    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("declared", [b"1048577", b"99999999999999"])
def test_a_declared_body_over_the_limit_is_413_before_it_is_sent(service: Service, declared: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=120) as connection:
        connection.sendall(POST + b"Content-Length: " + declared + b"\r\n\r\n")
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("declared", [b"9" * 30, b"-1", b"x", b"1, 2", b"+5"])
def test_a_length_that_is_none_is_400(service: Service, declared: bytes) -> None:
    answer = service.raw(POST + b"Content-Length: " + declared + b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"INVALID_INPUT"' in answer


def test_what_it_was_is_still_there_after_a_refused_body(service: Service) -> None:
    thing = service.client.post("/things", json={"name": "x", "price": 1}).json()

    response = service.client.patch(
        f"/things/{thing['id']}", content=b" " * 2_000_000, headers={"Content-Type": "application/json"}
    )

    assert_error(response, 413, "PAYLOAD_TOO_LARGE")
    assert service.client.get(f"/things/{thing['id']}").json() == thing


def test_a_crash_is_500_with_a_trace_id_and_no_internals(make_client: MakeClient, logs: Logs) -> None:
    def crash(_: object) -> None:
        raise RuntimeError("geheim: password=hunter2")

    client = make_client()
    serve(client, "/crash", crash)

    response = client.get("/crash", headers={"X-Trace-ID": "crash-1"})

    assert assert_error(response, 500, "INTERNAL_ERROR") == {
        "code": "INTERNAL_ERROR",
        "message": "Internal server error",
    }
    assert response.headers["x-trace-id"] == "crash-1"
    lines = [line for line in logs() if line.get("trace_id") == "crash-1"]
    [crashed] = [line for line in lines if line["level"] == "ERROR"]
    assert "RuntimeError" in crashed["exc_info"]
    assert [line["status"] for line in lines if line["logger"] == "app.access"] == [500]


def test_a_defect_in_sql_is_500_and_says_nothing_of_it(own_database_url: str, start_service: StartService) -> None:
    service = start_service(DATABASE_URL=own_database_url)
    query(own_database_url, "ALTER TABLE things RENAME COLUMN description TO remarks")

    response = service.client.get("/things/1")

    assert assert_error(response, 500, "INTERNAL_ERROR") == {
        "code": "INTERNAL_ERROR",
        "message": "Internal server error",
    }
    errors = [line for line in service.logged(response.headers["x-trace-id"]) if line["level"] == "ERROR"]
    assert [line["sqlstate"] for line in errors] == ["42703"]


def test_cors_and_trusted_hosts_answer_in_the_envelope(make_client: MakeClient) -> None:
    client = make_client(cors_origins="https://good.example", trusted_hosts="testserver,*.good.example")
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}

    assert_error(client.options("/things", headers=preflight), 400, "INVALID_INPUT")
    assert_error(client.get("/things", headers={"Host": "evil.example"}), 400, "INVALID_INPUT")
    good = client.options("/things", headers={**preflight, "Origin": "https://good.example"})
    assert good.status_code == 200
    assert good.headers["access-control-allow-origin"] == "https://good.example"
    assert client.get("/things", headers={"Host": "a.good.example"}).status_code == 200
    # Kubernetes and Prometheus ask the pod's address.
    assert client.get("/health/live", headers={"Host": "10.1.2.3:8000"}).status_code == 200


@pytest.mark.parametrize(("range_", "status"), [("bytes=x", 400), ("bytes=99999999-", 416)])
def test_a_range_that_a_file_does_not_have_is_answered_in_the_envelope(
    client: TestClient, range_: str, status: int
) -> None:
    answer = client.get("/docs/assets/swagger-ui.css", headers={"Range": range_})
    assert (answer.status_code, answer.json()["trace_id"]) == (status, answer.headers["X-Trace-ID"])
    assert ("content-range" in answer.headers) == (status == 416)
    part = client.get("/docs/assets/swagger-ui.css", headers={"Range": "bytes=0-9"})
    assert (part.status_code, len(part.content)) == (206, 10)


def test_errors_carry_cors_headers_so_that_browsers_show_them(make_client: MakeClient) -> None:
    client = make_client(cors_origins="https://good.example")

    def crash(_: object) -> None:
        raise RuntimeError

    serve(client, "/crash", crash)
    for path, status in {"/nothing": 404, "/things/x": 422, "/crash": 500}.items():
        response = client.get(path, headers={"Origin": "https://good.example"})
        assert response.status_code == status
        assert response.headers.get("access-control-allow-origin") == "https://good.example", path
        assert "X-Trace-ID" in response.headers["access-control-expose-headers"]


def test_without_cors_origins_and_trusted_hosts_there_is_neither(client: TestClient) -> None:
    response = client.get("/things", headers={"Origin": "https://any.example", "Host": "any.example"})

    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "accept",
    [
        PROBLEM,
        f"{PROBLEM}, application/json",
        f"application/json;q=0.9, {PROBLEM}",
        f"{PROBLEM};q=0.5, */*;q=0.1",
        f"{PROBLEM};q=0.1, text/html",
        PROBLEM.upper(),
        f"{PROBLEM} ; q=1.0",
        f"{PROBLEM};charset=utf-8",
    ],
)
def test_a_client_that_prefers_problem_json_gets_it(client: TestClient, accept: str) -> None:
    response = client.get("/things/7?x=1", headers={"Accept": accept})

    assert response.status_code == 404
    assert response.headers["content-type"] == PROBLEM
    assert response.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "Thing 7 not found",
        "instance": "/things/7",
        "code": "THING_NOT_FOUND",
        "trace_id": response.headers["x-trace-id"],
    }


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        f"{PROBLEM};q=0",
        f"{PROBLEM};q=0.5, application/json",
        "text/html",
        f"x{PROBLEM}",
        f"{PROBLEM};q=x",
        ";;,,;q=",
        f"{PROBLEM};q=nan",
        "\xff",
    ],
)
def test_another_client_gets_the_envelope(client: TestClient, accept: str) -> None:
    assert_error(client.get("/things/7", headers=[(b"Accept", accept.encode("latin-1"))]), 404, "THING_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("PUT", "/things", 405),
        ("POST", "/things", 415),
        ("GET", "/things/x", 422),
        ("POST", "/things/batch", 415),
    ],
)
def test_every_kind_of_error_can_be_a_problem(client: TestClient, method: str, path: str, status: int) -> None:
    content: dict[str, Any] = {"content": b"x"} if method == "POST" else {}

    response = client.request(method, path, headers={"Accept": PROBLEM}, **content)

    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert problem["status"] == status
    assert problem["instance"] == path
    assert ("errors" in problem) == (status == 422)


def test_errors_vary_by_accept(client: TestClient) -> None:
    assert client.get("/things/7").headers["vary"] == "Accept"


@pytest.mark.parametrize(
    "path", ["/things/%00", "/%00", "/%ED%A0%80", "/%FF", "/things/%F0%9F%92%A9", "/a%0D%0Ab", "/" + "x" * 20_000]
)
def test_strange_paths_are_4xx_in_either_form(client: TestClient, path: str) -> None:
    for accept in ("*/*", PROBLEM):
        response = client.get(path, headers={"Accept": accept})
        assert response.status_code in {404, 422}
        assert response.json()["trace_id"] == response.headers["x-trace-id"]


class SKUTaken(Conflict):
    """Another label has this SKU.

    Labels are printed.
    """


class Cat(BaseModel):
    """One of two."""

    kind: Literal["cat"]


class Dog(BaseModel):
    """The other."""

    kind: Literal["dog"]


def test_an_unknown_tag_is_not_repeated(make_client: MakeClient) -> None:
    client = make_client()
    app: Any = client.app

    @app.post("/pets")  # type: ignore[untyped-decorator]
    async def post(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> Any:
        return pet

    detail = assert_error(client.post("/pets", json={"kind": "secret"}), 422, "INVALID_INPUT")
    assert detail["errors"] == [
        {"loc": ["body"], "msg": "Input tag should be one of 'cat', 'dog'", "type": "union_tag_invalid"}
    ]


class DeliveryNoteNotFound(ResourceNotFound):
    """There is no such delivery note."""


class WrongColour(InvalidInput):
    """A colour that is not sold any more."""

    code, default_message = "NOT_SOLD", "Choose another colour"


def test_an_error_has_its_code_and_message_from_its_class() -> None:
    taken, missing, wrong = SKUTaken(), DeliveryNoteNotFound(3), WrongColour()

    assert (taken.status, taken.code, taken.message) == (409, "SKU_TAKEN", "Another label has this SKU")
    assert (missing.status, missing.code, missing.message) == (
        404,
        "DELIVERY_NOTE_NOT_FOUND",
        "Delivery note 3 not found",
    )
    assert (wrong.status, wrong.code, wrong.message) == (422, "NOT_SOLD", "Choose another colour")
