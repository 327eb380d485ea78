"""Each part of FastAPI, Starlette, SQLAlchemy and prometheus_client that is overridden or not documented is in use.

An upgrade that renames one would otherwise turn our code off without a word. `pyproject.toml` limits the versions;
tests/server/test_hooks.py does this for gunicorn and uvicorn.
"""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import routing
from starlette.testclient import TestClient

from app.core.api import router
from app.core.api.input import arguments, parameters
from app.core.application import Application
from app.core.database.engine.dialect import LoopDialect
from app.core.middleware.hosts import HostMiddleware
from tests.conftest import MakeClient, StartService

OVERRIDDEN: dict[str, tuple[Any, str, str]] = {
    "the middleware stack": (Application, "build_middleware_stack", "starlette.applications"),
    "the handler of a route": (router.APIRoute, "get_route_handler", "fastapi.routing"),
    "the check of Host": (HostMiddleware, "__call__", "fastapi._body_limit"),
    "the pool of the dialect": (LoopDialect, "get_pool_class", "sqlalchemy.engine.default"),
    "the first connection": (LoopDialect, "initialize", "sqlalchemy.engine.create"),
    "execution": (LoopDialect, "do_execute", "sqlalchemy.engine.base"),
}


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Note the modules that call each override."""
    seen: dict[str, set[str]] = {name: set() for name in OVERRIDDEN}

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            module = sys._getframe(1).f_globals["__name__"]
            seen[name].add(module)
            return method(*args, **kwargs)

        return noted

    for name, (owner, attribute, _) in OVERRIDDEN.items():
        declared = vars(owner)[attribute]
        if isinstance(declared, classmethod):
            monkeypatch.setattr(owner, attribute, classmethod(noting(name, declared.__func__)))
        else:
            monkeypatch.setattr(owner, attribute, noting(name, declared))
    return seen


def test_each_override_is_called_by_its_library(callers: dict[str, set[str]], make_client: MakeClient) -> None:
    client = make_client(trusted_hosts=("testserver",))
    item = client.post("/items", json={"name": "Lamp", "price": 1}).json()
    assert client.get(f"/items/{item['id']}").status_code == 200
    assert client.get("/items").status_code == 200
    missing = {name: callers[name] for name, (_, _, module) in OVERRIDDEN.items() if module not in callers[name]}
    assert missing == {}


def test_the_effective_route_is_in_the_context_variable(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    """`_effective_route_context_var` tells a route of which inclusion it makes the handler."""
    paths: list[str] = []
    plan_of = arguments.plan_of

    def noted(dependant: Any, *rest: Any) -> Any:
        paths.append(dependant.path)
        return plan_of(dependant, *rest)

    monkeypatch.setattr(router, "plan_of", noted)
    client = make_client()
    app: Any = client.app
    for prefix in ("/v1", "/v2"):
        app.include_router(_things(), prefix=prefix)
    for prefix in ("/v1", "/v2"):
        assert client.get(f"{prefix}/things/7").json() == 7
    assert {"/v1/things/{thing_id}", "/v2/things/{thing_id}"} <= set(paths)


def _things() -> router.APIRouter:
    things = router.APIRouter()

    @things.get("/things/{thing_id}")
    async def get(thing_id: int) -> int:
        return thing_id

    return things


def test_the_effective_route_is_in_the_scope(client: TestClient) -> None:
    """The keys of `scope["fastapi"]` that `app.core.middleware.route_table` reads."""
    assert routing._FASTAPI_SCOPE_KEY == "fastapi"
    assert routing._FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY == "effective_route_context"
    client.get("/items/7")
    assert 'path="/items/{item_id}"' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("module", "name", "request_"),
    [
        (parameters, "request_params_to_args", ("GET", "/v1/headers")),
        (arguments, "request_body_to_args", ("POST", "/v1/bodies")),
        (router, "serialize_response", ("DELETE", "/v1/nothing")),
    ],
)
def test_functions_of_fastapi_are_called(
    module: Any, name: str, request_: tuple[str, str], monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    calls: list[str] = []
    function = getattr(module, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, noted)
    client = make_client()
    app: Any = client.app
    app.include_router(_others(), prefix="/v1")
    client.request(*request_)
    assert calls == [name]


def _others() -> router.APIRouter:
    others = router.APIRouter()

    @others.get("/headers")
    async def get_headers(tag: int) -> int:
        return tag

    @others.post("/bodies")
    async def post_body(body: dict[str, int]) -> int:
        return len(body)

    @others.delete("/nothing", status_code=204)
    async def delete_nothing() -> None:
        return None

    return others


def test_the_metrics_of_all_workers_are_merged_by_the_library(start_service: StartService) -> None:
    """`MultiProcessCollector.merge`, which `WorkersCollector` calls, is not documented."""
    text = start_service().client.get("/metrics").text
    assert "http_requests_total" in text
    assert "# TYPE http_request_duration_seconds histogram" in text


def test_packages_with_private_parts_in_use_have_an_upper_limit() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    limited = {line.split(">")[0].split("[")[0] for line in project["dependencies"] if ",<" in line}
    private = {"fastapi", "starlette", "uvicorn", "uvicorn-worker", "gunicorn", "sqlalchemy", "prometheus-client"}
    assert private <= limited
