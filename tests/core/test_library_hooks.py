"""Each part of FastAPI, Starlette, SQLAlchemy and prometheus_client that is overridden or not documented is in use.

An upgrade that renames one would otherwise turn our code off without a word. `pyproject.toml` limits the versions;
tests/server/test_hooks.py does this for gunicorn and uvicorn.
"""

import sys
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Query, WebSocket, routing
from prometheus_client import multiprocess, values
from sqlalchemy import Connection, text
from starlette.testclient import TestClient

from app.core.api import router
from app.core.api.input import arguments, parameters
from app.core.application import Application
from app.core.database.database import Mode
from app.core.database.engine.dialect import LoopDialect
from app.core.middleware.hosts import HostMiddleware
from app.core.observability.metric_files import AllocatedDict
from app.core.observability.metrics_endpoint import WorkersCollector
from tests.conftest import MakeClient, MakeSettings
from tests.sample import router as things
from tests.support.overrides import overridden
from tests.support.routes import serve

CLASSES = (Application, router.APIRoute, router.APIRouter, HostMiddleware, LoopDialect, AllocatedDict)
CALLED_BY = {
    "Application.build_middleware_stack": "starlette.applications",
    "APIRoute.get_route_handler": "fastapi.routing",
    "APIRouter.add_api_route": "fastapi.routing",
    "APIRouter.add_api_websocket_route": "fastapi.routing",
    "APIRouter.include_router": __name__,  # as features call it
    "HostMiddleware.__call__": "app.core.middleware.request",
    "LoopDialect.get_pool_class": "sqlalchemy.engine.default",
    "LoopDialect.initialize": "sqlalchemy.engine.create",
    "LoopDialect.do_execute": "sqlalchemy.engine.base",
    "LoopDialect.do_execute_no_params": "sqlalchemy.engine.base",
    "LoopDialect.do_executemany": "sqlalchemy.engine.base",
    "AllocatedDict._init_value": "prometheus_client.mmap_dict",
}


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Note the modules that call each override."""
    seen: dict[str, set[str]] = {}

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add(sys._getframe(1).f_globals["__name__"])
            return method(*args, **kwargs)

        return noted

    for owner in CLASSES:
        for attribute in overridden(owner):
            name, declared = f"{owner.__name__}.{attribute}", vars(owner)[attribute]
            method = getattr(declared, "__func__", declared)
            note = noting(name, method)
            monkeypatch.setattr(owner, attribute, classmethod(note) if isinstance(declared, classmethod) else note)
    return seen


def test_every_override_is_in_the_table() -> None:
    assert {f"{owner.__name__}.{name}" for owner in CLASSES for name in overridden(owner)} == CALLED_BY.keys()


def test_each_override_is_called_by_its_library(
    callers: dict[str, set[str]], make_settings: MakeSettings, tmp_path: Path
) -> None:
    app = Application(make_settings(trusted_hosts=("testserver",)))  # without what `app.main` may add
    app.include_router(things.router)
    with TestClient(app) as client:
        thing = client.post("/things", json={"name": "Lamp", "price": 1}).json()
        assert client.get(f"/things/{thing['id']}").status_code == 200
        _things()
        serve(client, "/statements", _execute_in_each_way, Mode.TRANSACTION)
        assert client.get("/statements").status_code == 200
    with closing(AllocatedDict(str(tmp_path / "counter_0.db"))) as file:
        file.read_value("key")  # type: ignore[no-untyped-call]

    missing = {name: callers.get(name) for name, module in CALLED_BY.items() if module not in callers.get(name, ())}
    assert missing == {}


def _execute_in_each_way(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))
    connection.exec_driver_sql("SELECT 1", execution_options={"no_parameters": True})
    connection.execute(text("DELETE FROM things WHERE id = :id"), [{"id": 1}, {"id": 2}])


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

    @things.websocket("/things")
    async def follow(socket: WebSocket) -> None:
        await socket.close()

    outer = router.APIRouter()
    outer.include_router(things)
    return outer


def test_the_effective_route_is_in_the_scope(client: TestClient) -> None:
    """The keys of `scope["fastapi"]` that `app.core.middleware.route_table` reads."""
    assert routing._FASTAPI_SCOPE_KEY == "fastapi"
    assert routing._FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY == "effective_route_context"
    client.get("/things/7")
    assert 'path="/things/{thing_id}"' in client.get("/metrics").text


def test_parameters_that_need_all_rules_are_read_by_fastapi(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    """`request_params_to_args` is not documented."""
    calls: list[Any] = []
    module: Any = parameters
    function = module.request_params_to_args

    def noted(*args: Any) -> Any:
        calls.append(args)
        return function(*args)

    monkeypatch.setattr(module, "request_params_to_args", noted)
    client = make_client()
    app: Any = client.app
    things = router.APIRouter()

    @things.get("/tags")
    async def get_tags(tag: Annotated[list[int], Query()]) -> list[int]:
        return tag

    app.include_router(things)
    assert client.get("/tags?tag=1&tag=2").json() == [1, 2]
    assert len(calls) == 1


def test_the_files_of_all_workers_are_merged_by_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`values.MmapedDict`, which we replace, and `MultiProcessCollector.merge` are not documented."""
    made: list[str] = []
    merged: list[str] = []
    merge: Callable[..., Any] = multiprocess.MultiProcessCollector.merge

    class Noted(AllocatedDict):
        def __init__(self, filename: str) -> None:
            made.append(filename)
            super().__init__(filename)

    def note_merge(files: list[str]) -> Any:
        merged.extend(files)
        return merge(files)

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "MmapedDict", Noted)
    monkeypatch.setattr(multiprocess.MultiProcessCollector, "merge", note_merge)
    for worker in ("0", "1"):
        value = values.MultiProcessValue(process_identifier=lambda worker=worker: worker)  # type: ignore[no-untyped-call]
        value("counter", "lamps", "lamps_total", (), (), "Lamps.").inc(2)

    [metric] = WorkersCollector(str(tmp_path)).collect()

    assert sorted(made) == sorted(merged) == [str(tmp_path / f"counter_{worker}.db") for worker in ("0", "1")]
    assert [sample.value for sample in metric.samples] == [4]


def test_packages_with_private_parts_in_use_have_an_upper_limit() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    limited = {line.split(">")[0].split("[")[0] for line in project["dependencies"] if ",<" in line}
    private = {"fastapi", "starlette", "uvicorn", "uvicorn-worker", "gunicorn", "sqlalchemy", "prometheus-client"}
    private |= {"httptools", "websockets", "pyjwt", "psycopg2-binary", "pydantic"}
    assert private <= limited
