"""Fixtures: one real PostgreSQL a session, clean tables a test, the app in this process, the service beside it.

Every wait in a test has a bound, and no test reads the developer's environment or `.env`.
"""

import contextlib
import json
import logging.config
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, LiteralString, Protocol

import pytest
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from pydantic import SecretStr
from starlette.testclient import TestClient

import tests.sample.router  # noqa: F401 - its settings are among those below
from app.core.config import Settings
from tests.support.cluster import Cluster, clean, connected, run
from tests.support.proxy import Proxy
from tests.support.reporting import Reporting
from tests.support.service import SAMPLE, Service
from tests.support.settings import kinds

# An application is made while its module is imported, and with it settings; it does not connect.
for _kind in kinds():
    _kind.model_config["env_file"] = None
    for _name in _kind.model_fields:
        os.environ.pop(_name.upper(), None)
for _name in ("PROMETHEUS_MULTIPROC_DIR", "METRICS_SLOT"):
    os.environ.pop(_name, None)
os.environ["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/nowhere"

from app.core.observability.log_writer import log_writer  # noqa: E402
from app.core.observability.logs import log_config  # noqa: E402
from app.core.resources import periodic  # noqa: E402
from tests.sample.app import create_app  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--runslow`."""
    parser.addoption("--runslow", action="store_true", help="run the tests that are marked as slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip slow tests, unless they were asked for."""
    if not config.getoption("--runslow"):
        skip = pytest.mark.skip(reason="slow; scripts/test --all, or pytest --runslow, runs it")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.hookimpl(trylast=True)  # after the terminal reporter is there
def pytest_configure(config: pytest.Config) -> None:
    """Report, in the process that has the terminal."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporting(terminal))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape what pytest-xdist cannot send: lone surrogates, which some tests log."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_encodable, value))
    return value


class MakeSettings(Protocol):
    """Makes settings for the test's database, with these fields instead of the defaults."""

    def __call__(self, **fields: Any) -> Settings:
        """Make them."""
        ...


class MakeClient(Protocol):
    """Makes a client of an app of its own in this process, with these settings instead of the defaults."""

    def __call__(self, **fields: Any) -> TestClient:
        """Make it; it ends with the test."""
        ...


class StartService(Protocol):
    """Starts a service with these environment variables."""

    def __call__(self, *, app: str = SAMPLE, **variables: str) -> Service:
        """Start it; it ends with the test."""
        ...


class SQL(Protocol):
    """Runs one statement on the test's database, on a connection that the service does not use."""

    def __call__(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run it, and return its rows."""
        ...


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on the event loop that the service has."""
    return "asyncio"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start PostgreSQL in a throw-away folder."""
    from postgres import running, superuser_url  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("postgres")
    with running(folder, durable=False) as url:
        yield Cluster(url, superuser_url(folder))


@pytest.fixture(scope="session")
def _shared_database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="session")
def _observer(_shared_database: str) -> Iterator[PsycopgConnection]:
    with connected(_shared_database) as connection:
        yield connection


@pytest.fixture
def database_url(_shared_database: str, _observer: PsycopgConnection) -> str:
    """Name a migrated database with empty tables. A test that changes more than rows takes `own_database_url`."""
    clean(_observer)
    return _shared_database


@pytest.fixture
def own_database_url(cluster: Cluster) -> Iterator[str]:
    """Name a migrated database that no other test sees."""
    with cluster.database() as url:
        yield url


@pytest.fixture
def superuser_url(cluster: Cluster, own_database_url: str) -> str:
    """Name the database of `own_database_url`, as a superuser."""
    return cluster.as_superuser(own_database_url)


@pytest.fixture
def sql(database_url: str, _observer: PsycopgConnection) -> SQL:  # noqa: ARG001 - it makes the tables empty
    """Run one statement on the test's database."""
    return lambda statement, parameters=(): run(_observer, statement, parameters)


@pytest.fixture
def make_settings(database_url: str) -> MakeSettings:
    """Make settings that differ from the defaults."""
    return lambda **fields: Settings(**{"database_url": database_url, **fields})


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """Make the settings of a test: the defaults."""
    return make_settings()


@pytest.fixture
def make_client(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """Make clients of apps with special settings; those that are a feature's are in the environment."""
    with contextlib.ExitStack() as stack:

        def make(**fields: Any) -> TestClient:
            for name in fields.keys() - Settings.model_fields.keys():
                monkeypatch.setenv(name.upper(), str(fields.pop(name)))
            return stack.enter_context(TestClient(create_app(make_settings(**fields))))

        yield make


@pytest.fixture(scope="session")
def _shared_client(_shared_database: str) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(database_url=SecretStr(_shared_database)))) as client:
        yield client


@pytest.fixture
def client(_shared_client: TestClient, settings: Settings) -> TestClient:
    """Talk to an app in this process that has the defaults; one serves all tests, `make_client` makes more."""
    logging.config.dictConfig(log_config(settings))
    return _shared_client


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Collect what is logged in this process from now on, also by apps that set up the logging later.

    The periodic jobs of apps that go on beside the test are left out.
    """
    lines: list[str] = []
    monkeypatch.setattr(log_writer, "put", lines.append)

    def read() -> list[dict[str, Any]]:
        all_lines = [json.loads(line) for line in "".join(lines).splitlines()]
        return [line for line in all_lines if line["logger"] != periodic.__name__]

    return read


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """Stand between the service and the test's database."""
    with contextlib.closing(Proxy(database_url)) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service: two workers, a database of its own that all tests share, so none counts on its rows."""
    with cluster.database() as url, running_service(tmp_path_factory.mktemp("service"), DATABASE_URL=url) as service:
        service.wait_for_workers(2)
        yield service


@pytest.fixture
def served() -> str:
    """Name the application that `start_service` serves."""
    return SAMPLE


@pytest.fixture
def start_service(database_url: str, served: str, tmp_path: Path) -> Iterator[StartService]:
    """Run services with special settings, on the test's database unless told otherwise."""
    with contextlib.ExitStack() as stack:

        def start(*, app: str = served, **variables: str) -> Service:
            variables = {"DATABASE_URL": database_url, **variables}
            return stack.enter_context(running_service(tmp_path, app=app, **variables))

        yield start


@contextlib.contextmanager
def running_service(folder: Path, *, app: str = SAMPLE, **variables: str) -> Iterator[Service]:
    defaults = {
        "HOST": "127.0.0.1",
        "WEB_CONCURRENCY": "2",
        "DRAIN_SECONDS": "0",
        "SHUTDOWN_TIMEOUT": "5",
        # Longer than by default, for machines that are busy with something else.
        "DB_POOL_TIMEOUT": "30",
        "DB_STATEMENT_TIMEOUT": "30",
    }
    service = Service(folder, {**defaults, **variables}, app=app)
    try:
        service.wait_until_alive()
        yield service
    finally:
        service.stop()
