"""`Security(caller, scopes=[...])` on FastAPI's own routes: answers, challenges, and what OpenAPI says."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import pytest
from fastapi import FastAPI, Request, Security, WebSocket
from prometheus_client import REGISTRY
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient, WebSocketDenialResponse

from app.core.api.authentication import Caller, caller, caller_of
from app.core.api.openapi.document import truthful
from app.core.api.router import APIRouter
from app.core.auth import Identity
from app.core.auth.failures import Reason
from app.core.auth.tokens import verification
from app.core.config import Settings
from app.core.error_responses import PROBLEM_JSON, handle_http_error
from tests.support.tokens import AUDIENCE, ISSUER, Signer, hostile_tokens

SIGNER = Signer()
HOSTILE = hostile_tokens(SIGNER)

router = APIRouter(prefix="/lamps", scopes="lamps")


@router.get("")
async def list_lamps(request: Request) -> dict[str, str | None]:
    """Say for whom the lamps are."""
    return {"caller": caller_of(request)}


@router.post("")
async def create_lamp(caller: Caller) -> dict[str, Any]:
    """Say who made the lamp."""
    return {"subject": caller.subject, "scopes": sorted(caller.scopes), "lamp": caller.claims.get("lamp")}


@router.put("/{number}", dependencies=[Security(caller, scopes=["lamps:repair"])])
def repair_lamp(number: int, lamp: dict[str, int]) -> dict[str, int]:
    """Be served by FastAPI's own handler, as this one is not `async`."""
    return {"number": number, **lamp}


@router.websocket("/events")
async def follow_lamps(socket: WebSocket) -> None:
    """Say hello."""
    await socket.accept()
    await socket.send_json({"caller": caller_of(socket)})
    await socket.close()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if app.state.settings.auth_issuer is None:
        app.state.verifier = None
        yield
        return
    async with verification(app.state.settings) as app.state.verifier:
        yield


def lamps(**fields: Any) -> TestClient:
    """Make an application of this router alone."""
    app = FastAPI(
        lifespan=lifespan, exception_handlers={HTTPException: handle_http_error}, dependencies=[Security(caller)]
    )
    app.state.settings = Settings(database_url=SecretStr("postgresql://h/d"), service_name="lamps", **fields)
    app.openapi = truthful(app)  # type: ignore[method-assign]
    app.include_router(router)
    return TestClient(app)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(json.dumps({"keys": [SIGNER.jwk]}))
    return file


@pytest.fixture(scope="module")
def client(keys: Path) -> Iterator[TestClient]:
    with lamps(auth_issuer=ISSUER, auth_audience=AUDIENCE, auth_jwks_file=keys) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def failures(reason: Reason) -> float:
    return REGISTRY.get_sample_value("auth_failures_total", {"reason": reason}) or 0.0


def test_a_caller_with_the_scope_is_served(client: TestClient) -> None:
    answer = client.get("/lamps", headers=bearer(SIGNER.token(scope="lamps:read")))

    assert (answer.status_code, answer.json()) == (200, {"caller": "alice"})


def test_a_handler_that_wants_to_know_its_caller_is_told(client: TestClient) -> None:
    answer = client.post("/lamps", headers=bearer(SIGNER.token(scope="lamps:write b", lamp=7)))

    assert answer.json() == {"subject": "alice", "scopes": ["b", "lamps:write"], "lamp": 7}


def nothing() -> None:
    """Be a handler."""


@pytest.mark.parametrize("inner", [fastapi.APIRouter(prefix="/bulbs"), APIRouter(prefix="/bulbs")])
def test_a_router_inside_of_one_with_scopes_has_scopes(inner: fastapi.APIRouter) -> None:
    outer = APIRouter(prefix="/sockets", scopes="lamps")
    with pytest.raises(TypeError, match="/sockets/bulbs would need no scope"):
        outer.include_router(inner)

    with_scopes = APIRouter(prefix="/bulbs", scopes="bulbs")
    with_scopes.add_api_route("", nothing)
    outer.include_router(with_scopes)
    assert len(outer.routes) == 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Token x"}])
def test_without_a_token_the_challenge_has_no_error(client: TestClient, headers: dict[str, str]) -> None:
    before = failures(Reason.MISSING)

    answer = client.get("/lamps", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lamps", scope="lamps:read"'
    assert answer.json()["detail"] == {"code": "UNAUTHENTICATED", "message": Reason.MISSING.text}
    assert failures(Reason.MISSING) == before + 1


def test_a_token_that_expired_is_refused_with_the_reason(client: TestClient) -> None:
    answer = client.get("/lamps", headers=bearer(SIGNER.token(exp=1)))

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer realm="lamps", error="invalid_token", error_description="The token has expired", scope="lamps:read"'
    )


def test_a_scope_that_is_missing_is_named(client: TestClient) -> None:
    before = failures(Reason.SCOPE)

    answer = client.get("/lamps", headers=bearer(SIGNER.token(scope="lamps:write lamps:readx")))

    assert answer.status_code == 403
    assert answer.json()["detail"]["code"] == "FORBIDDEN"
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer realm="lamps", error="insufficient_scope", error_description="The token lacks a scope",'
        ' scope="lamps:read"'
    )
    assert failures(Reason.SCOPE) == before + 1


def test_a_problem_document_is_given_to_who_asks_for_one(client: TestClient) -> None:
    answer = client.get("/lamps", headers={"Accept": PROBLEM_JSON})

    assert answer.headers["Content-Type"] == PROBLEM_JSON
    assert (answer.json()["status"], answer.json()["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_401(client: TestClient, name: str) -> None:
    answer = client.get("/lamps", headers=[(b"Authorization", f"Bearer {HOSTILE[name]}".encode())])

    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert answer.json()["detail"]["code"] == "UNAUTHENTICATED"


def test_two_authorization_fields_are_refused(client: TestClient) -> None:
    token = SIGNER.token(scope="lamps:read")

    answer = client.get("/lamps", headers=[("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")])

    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_token_in_the_query_is_no_token(client: TestClient) -> None:
    answer = client.get("/lamps", params={"access_token": SIGNER.token(scope="lamps:read")})

    assert answer.status_code == 401
    assert "error" not in answer.headers["WWW-Authenticate"]


def test_the_scheme_s_name_has_no_case_and_spaces_do_not_matter(client: TestClient) -> None:
    token = SIGNER.token(scope="lamps:read")

    assert client.get("/lamps", headers={"Authorization": f"bEARER   {token} "}).status_code == 200


def test_without_keys_a_token_is_503(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("{}")
    with lamps(auth_issuer=ISSUER, auth_audience=AUDIENCE, auth_jwks_file=file) as client:
        answer = client.get("/lamps", headers=bearer(SIGNER.token()))

        assert (answer.status_code, answer.json()["detail"]["code"]) == (503, "AUTHENTICATION_UNAVAILABLE")
        assert answer.headers["Retry-After"] == "5"
        assert client.get("/lamps").status_code == 401


@pytest.mark.parametrize(
    ("scope", "status"), [("", 403), ("lamps:write", 403), ("lamps:repair", 403), ("lamps:write lamps:repair", 200)]
)
def test_a_route_may_require_more_than_its_router(client: TestClient, scope: str, status: int) -> None:
    answer = client.put("/lamps/7", headers=bearer(SIGNER.token(scope=scope)), json={"bulb": 1})

    assert answer.status_code == status


def test_a_token_is_asked_for_before_the_input_is_read(client: TestClient) -> None:
    assert client.get("/lamps?a=1&a=2").status_code == 401
    for method, path in (("POST", "/lamps"), ("PUT", "/lamps/7")):  # FastAPI's own handler serves the second
        answer = client.request(method, path, content=b"{", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 401
        assert 'scope="lamps:write' in answer.headers["WWW-Authenticate"]


def test_a_websocket_needs_the_scope_for_reading(client: TestClient) -> None:
    with client.websocket_connect("/lamps/events", headers=bearer(SIGNER.token(scope="lamps:read"))) as socket:
        assert socket.receive_json() == {"caller": "alice"}
    for headers in ({}, bearer(SIGNER.token(scope="lamps:write"))):
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/lamps/events", headers=headers):
            pass


def test_a_dependency_override_replaces_the_caller(keys: Path) -> None:
    with lamps(auth_issuer=ISSUER, auth_audience=AUDIENCE, auth_jwks_file=keys) as client:
        client.app.dependency_overrides[caller] = lambda: Identity("bob", frozenset({"x"}))  # type: ignore[attr-defined]

        assert client.post("/lamps").json() == {"subject": "bob", "scopes": ["x"], "lamp": None}


def test_the_document_has_the_scheme_the_scopes_and_the_refusals(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    scheme = document["components"]["securitySchemes"]["bearerAuth"]
    operation = document["paths"]["/lamps"]["get"]
    assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")
    assert operation["security"] == [{"bearerAuth": ["lamps:read"]}]
    assert {"401", "403"} <= operation["responses"].keys()
    assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]


def test_where_authentication_is_off_everybody_is_anonymous_and_the_document_says_nothing() -> None:
    with lamps() as client:
        document = client.get("/openapi.json").json()

        assert client.get("/lamps", headers=bearer("nonsense")).json() == {"caller": None}
        assert client.post("/lamps").json() == {"subject": None, "scopes": [], "lamp": None}
        assert "securitySchemes" not in document["components"]
        assert "security" not in document["paths"]["/lamps"]["get"]
        assert "401" not in document["paths"]["/lamps"]["get"]["responses"]
