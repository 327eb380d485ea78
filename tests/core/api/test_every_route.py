"""Where authentication is on, every route but the public ones needs a token, however it was added."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import fastapi
import pytest
from fastapi import FastAPI, Request, Security, WebSocket
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse

from app.core.api.authentication import Caller, caller, caller_of
from app.core.api.router import APIRouter
from app.core.api.unguarded_routes import TokenRequired
from app.core.auth import Identity
from tests.conftest import MakeSettings
from tests.sample.app import create_app
from tests.support.tokens import AUDIENCE, ISSUER, Signer

SIGNER = Signer()
PUBLIC = (
    "/health/live",
    "/health/ready",
    "/metrics",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/assets/swagger-ui.css",
)


def bearer(scope: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {SIGNER.token(scope=scope)}"}


async def who(request: Request) -> dict[str, str | None]:
    return {"caller": caller_of(request)}


async def say(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse(str(caller_of(HTTPConnection(scope))))(scope, receive, send)


@pytest.fixture
def make_app(make_settings: MakeSettings, tmp_path: Path) -> Callable[..., FastAPI]:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [SIGNER.jwk]}))
    settings = make_settings(auth_issuer=ISSUER, auth_audience=AUDIENCE, auth_jwks_file=keys)
    return lambda **options: create_app(settings, **options)


def documented(app: FastAPI) -> None:
    """Add routes in each way of FastAPI's documentation."""
    app.add_api_route("/app", who)
    app.add_api_websocket_route("/app/ws", say)
    for kind in (fastapi.APIRouter, APIRouter):
        router = kind(prefix=f"/{kind.__module__.partition('.')[0]}")
        router.add_api_route("/async", who)
        router.add_api_route("/def", lambda: {"caller": "alice"})
        router.add_api_websocket_route("/ws", say)
        outer = fastapi.APIRouter(prefix="/outer")
        outer.include_router(router)
        app.include_router(outer)


@pytest.mark.parametrize(
    "path", ["/app", "/outer/fastapi/async", "/outer/fastapi/def", "/outer/app/async", "/outer/app/def"]
)
def test_a_route_of_fastapi_needs_a_token(make_app: Callable[..., FastAPI], path: str) -> None:
    app = make_app()
    documented(app)
    with TestClient(app) as client:
        answer = client.get(path)
        assert (answer.status_code, answer.json()["detail"]["code"]) == (401, "UNAUTHENTICATED")
        assert client.get(path, headers=bearer()).json() == {"caller": "alice"}
        assert client.get("/openapi.json").json()["paths"][path]["get"]["security"] == [{"bearerAuth": []}]


@pytest.mark.parametrize("path", ["/app/ws", "/outer/fastapi/ws", "/outer/app/ws"])
def test_a_websocket_of_fastapi_needs_a_token(make_app: Callable[..., FastAPI], path: str) -> None:
    app = make_app()
    documented(app)
    with TestClient(app) as client:
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect(path):
            pass
        assert denied.value.status_code == 401
        with client.websocket_connect(path, headers=bearer()) as socket:
            assert socket.receive_text() == "hello"


def test_a_frontend_needs_a_token(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")
    app = make_app()
    app.frontend("/pages", directory=tmp_path)
    with TestClient(app) as client:
        assert client.get("/pages/index.html").status_code == 401
        assert client.get("/pages/index.html", headers=bearer()).text == "hello"


def test_public_routes_need_none_and_say_so(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app()) as client:
        assert {path: client.get(path).status_code for path in PUBLIC} == dict.fromkeys(PUBLIC, 200)
        assert [client.get("/nowhere").status_code, client.put("/things").status_code] == [404, 405]
        operation = client.get("/openapi.json").json()["paths"]["/health/live"]["get"]
        assert "security" not in operation
        assert "401" not in operation["responses"]


def test_an_adopter_s_routes_may_be_public(make_app: Callable[..., FastAPI]) -> None:
    app = make_app(public=["/app", "/mounted"])
    documented(app)
    app.mount("/mounted", asgi)
    with TestClient(app) as client:
        assert client.get("/app").json() == {"caller": None}
        assert client.get("/mounted/x").text == "None"
        assert client.get("/outer/app/async").status_code == 401


def test_the_scopes_of_a_route_are_in_its_challenge(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app()) as client:
        assert 'scope="things:read"' in client.get("/things").headers["WWW-Authenticate"]
        operation = client.get("/openapi.json").json()["paths"]["/things"]["get"]
        assert operation["security"] == [{"bearerAuth": ["things:read"]}]


@pytest.mark.parametrize(
    ("name", "add"),
    [
        ("/mounted", lambda app, guard: app.mount("/mounted", guard(asgi))),
        ("/v1/mounted", lambda app, guard: app.include_router(router_with_mount(guard), prefix="/v1")),
        ("/plain", lambda app, guard: app.router.routes.append(Route("/plain", guard(asgi)))),
        ("/ws", lambda app, guard: app.router.routes.append(WebSocketRoute("/ws", guard(asgi)))),
        ("inner.example", lambda app, guard: app.router.routes.append(Host("inner.example", guard(asgi)))),
    ],
)
def test_it_does_not_start_with_a_route_that_dependencies_do_not_reach(
    make_app: Callable[..., FastAPI], name: str, add: Callable[[FastAPI, Any], None]
) -> None:
    app, guarded = make_app(), make_app()
    add(app, lambda inner: inner)
    add(guarded, TokenRequired)

    with pytest.raises(RuntimeError, match=f"nothing asks for a token at {name}: "), TestClient(app):
        pass
    with TestClient(guarded) as client:
        assert client.get("/health/live").status_code == 200


def router_with_mount(guard: Any) -> fastapi.APIRouter:
    router = fastapi.APIRouter()
    router.mount("/mounted", guard(asgi))
    return router


def test_a_mounted_application_knows_its_caller_and_may_require_scopes(make_app: Callable[..., FastAPI]) -> None:
    inner = FastAPI()

    @inner.get("/who")
    async def get_who(caller: Caller) -> str | None:
        return caller.subject

    @inner.get("/scoped")
    async def get_scoped(caller: Annotated[Identity, Security(caller, scopes=["write"])]) -> str | None:
        return caller.subject

    app = make_app()
    app.mount("/inner", TokenRequired(inner, "read"))
    with TestClient(app) as client:
        assert client.get("/inner/who").status_code == 401
        answer = client.get("/inner/who", headers=bearer("other"))
        assert (answer.status_code, 'scope="read"' in answer.headers["WWW-Authenticate"]) == (403, True)
        assert client.get("/inner/who", headers=bearer("read")).json() == "alice"
        assert client.get("/inner/scoped", headers=bearer("read")).status_code == 403
        assert client.get("/inner/scoped", headers=bearer("read write")).json() == "alice"


def test_where_authentication_is_off_nothing_is_required(make_settings: MakeSettings) -> None:
    app = create_app(make_settings())
    documented(app)
    app.mount("/mounted", asgi)
    with TestClient(app) as client:
        assert client.get("/app").json() == {"caller": None}
        assert client.get("/mounted/x").text == "None"
