"""What FastAPI's documentation shows works beside a resource, in this process and under gunicorn."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.conftest import MakeSettings
from tests.core.api import documented
from tests.support.errors import assert_error
from tests.support.service import Service

Client = httpx2.Client
TOKEN = {"X-Token": "fake-super-secret-token"}


@pytest.fixture
def in_process(make_settings: MakeSettings) -> Iterator[TestClient]:
    with TestClient(documented.make_app(settings=make_settings()), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def under_gunicorn(database_url: str, tmp_path: Path) -> Iterator[Client]:
    variables = {"DATABASE_URL": database_url, "HOST": "127.0.0.1", "WEB_CONCURRENCY": "2", "DRAIN_SECONDS": "0"}
    service = Service(tmp_path, variables, app="tests.core.api.documented:app")
    try:
        service.wait_until_alive()
        yield service.client
    finally:
        service.stop()


@pytest.mark.parametrize("where", ["in_process", "under_gunicorn"])
def test_the_documentation_works(where: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(where)
    for check in (_dependencies, _parameters, _bodies, _responses, _errors, _middleware, _mounted, _labels):
        check(client)


def _get(client: Client, path: str, **options: Any) -> httpx2.Response:
    headers = {**TOKEN, **options.pop("headers", {})}
    return client.get(path, headers=headers, **options)


def _dependencies(client: Client) -> None:
    # The application's applies to other routes, too, the router's under both of its prefixes.
    detail = assert_error(client.get("/things?token=x"), 403, "FORBIDDEN")
    assert detail["message"] == "No Jessica token provided"
    assert client.get("/things").status_code == 200
    for prefix in ("", "/v2"):
        assert (
            assert_error(client.get(f"{prefix}/users/7"), 400, "INVALID_INPUT")["message"] == "X-Token header invalid"
        )
        assert _get(client, f"{prefix}/users/7").json() == {"user_id": 7, "ads_id": None}
        assert_error(_get(client, f"{prefix}/users/7?token=x"), 403, "FORBIDDEN")


def _parameters(client: Client) -> None:
    assert _get(client, "/users/7", headers={"Cookie": "ads_id=a"}).json()["ads_id"] == "a"
    assert_error(_get(client, "/users/0"), 422, "INVALID_INPUT")
    assert _get(client, "/users/?skip=3&tag=a&tag=b").json() == [{"username": "3['a', 'b']", "score": 0.5}]
    assert _get(client, "/users?skip=3", follow_redirects=True).status_code == 200
    assert assert_error(_get(client, "/users/me"), 401, "UNAUTHENTICATED")["message"] == "Not authenticated"
    assert _get(client, "/users/me", headers={"Authorization": "Bearer t"}).json() == "t"


def _bodies(client: Client) -> None:
    body = {"user": {"username": "rick"}, "importance": 5}
    created = client.post("/users/", json=body, headers=TOKEN)
    assert (created.status_code, created.json()) == (201, {"username": "rick", "score": 0.5})
    assert created.headers["x-importance"] == "5"
    assert client.post("/users/login", data={"username": "a"}, headers=TOKEN).json() == ["a", "db"]
    files = {"file": ("large.bin", b"x" * 2 * 1024 * 1024)}
    assert client.post("/users/upload", files=files, headers=TOKEN).json() == {"filename": "large.bin", "size": 2**21}
    too_large = {"file": ("large.bin", b"x" * 4 * 1024 * 1024)}
    assert_error(client.post("/users/upload", files=too_large, headers=TOKEN), 413, "PAYLOAD_TOO_LARGE")
    assert_error(client.post("/users/login", files=files, headers=TOKEN), 413, "PAYLOAD_TOO_LARGE")


def _responses(client: Client) -> None:
    assert _get(client, "/users/lifespan/model").json() == "loaded"
    assert _get(client, "/users/lifespan/state").json() == "shared"
    assert client.get("/openapi.json").json()["info"]["title"] == "Documented"
    large = _get(client, "/users/large/text")
    assert (large.headers.get("content-encoding"), large.json()) == ("gzip", ["a" * 5000])
    assert _get(client, "/users/returned/model").json() == {"username": "a", "score": 0.5}
    head = client.head("/users/only/head", headers=TOKEN)
    assert (head.status_code, head.headers["x-head"]) == (200, "1")
    assert client.head("/users/7", headers=TOKEN).status_code == 200


def _errors(client: Client) -> None:
    unicorn = _get(client, "/users/broken/unicorn")
    assert (unicorn.status_code, unicorn.json()) == (418, {"message": "Oops!"})
    unexpected = _get(client, "/users/broken/unexpected")
    assert (unexpected.status_code, unexpected.text) == (500, "RuntimeError")
    mermaid = _get(client, "/users/broken/mermaid")
    assert (mermaid.status_code, mermaid.json()) == (418, {"message": "Splash!"})
    for answer in (unicorn, mermaid, unexpected):
        assert answer.headers["x-trace-id"]


def _middleware(client: Client) -> None:
    stopped = client.get("/users/7", headers={"X-Stop": "1", "X-Trace-ID": "outside"})
    assert (stopped.status_code, stopped.headers["x-trace-id"]) == (418, "outside")
    passed = _get(client, "/users/7", headers={"X-Trace-ID": "inside"})
    assert (passed.headers["x-process"], passed.headers.get_list("x-trace-id")) == ("1", ["inside"])


def _mounted(client: Client) -> None:
    assert client.get("/subapi/sub/a").json() == {"message": "a"}


def _labels(client: Client) -> None:
    text = client.get("/metrics").text
    paths = set(re.findall(r'http_requests_total\{[^}]*path="([^"]*)"', text))
    expected = {
        "/users/{user_id}",
        "/v2/users/{user_id}",
        "/users/upload",
        "/users/me",
        "/subapi/sub/{name}",
        "/things",
    }
    assert expected <= paths
    assert not {path for path in paths if "7" in path}


def test_an_override_reaches_items_and_the_new_router(in_process: TestClient) -> None:
    app: Any = in_process.app
    app.dependency_overrides[documented.get_token_header] = lambda: None
    app.dependency_overrides[documented.get_query_token] = lambda: "anything"
    try:
        assert in_process.get("/users/7").status_code == 200
        assert in_process.get("/things").status_code == 200
    finally:
        app.dependency_overrides.clear()


def test_tasks_and_exits_run(in_process: TestClient) -> None:
    documented.written.clear()
    in_process.post("/users/", json={"user": {"username": "rick"}, "importance": 5}, headers=TOKEN)
    in_process.post("/users/login", data={"username": "a"}, headers=TOKEN)
    assert documented.written == ["rick", "closed"]


def test_operations_of_one_name_have_ids_of_their_own(in_process: TestClient) -> None:
    paths = in_process.get("/openapi.json").json()["paths"]
    ids = [operation["operationId"] for operations in paths.values() for operation in operations.values()]
    assert len(ids) == len(set(ids))
    assert {"get_thing", "read_user", "read_user_v2_users__user_id__get"} <= set(ids)
