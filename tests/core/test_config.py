"""A bad variable stops the start with exit code 1 and one line that names it and quotes nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
from pydantic import SecretStr

from app import __title__
from app.core import config
from app.core.config import Settings, load_settings
from app.core.database.engine.pool import connect_arguments
from tests.support.service import ROOT, environment
from tests.support.settings import all_fields

SECRET = "hunter2"  # noqa: S105 - it must not show
URL = f"postgresql://things:{SECRET}@db.example/things"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_settings.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    monkeypatch.setenv("DATABASE_URL", URL)


def fails(capsys: pytest.CaptureFixture[str]) -> str:
    """Load bad settings, and return the one line that is said."""
    with pytest.raises(SystemExit) as stopped:
        load_settings()
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert said.err == ""
    [line] = said.out.splitlines()
    assert SECRET not in line
    message: str = json.loads(line)["message"]
    return message


BAD = {
    "SERVICE_NAME": ["two words", "x" * 64, "ü", "a\nb", '"'],
    "ENVIRONMENT": ["a b", "x" * 64],
    "LOG_LEVEL": ["LOUD", "10", "INFO,DEBUG"],
    "PORT": ["abc", "-1", "65536", "80.5", "0x50", "8000 8001"],
    "OPS_PORT": ["0", "65536", "abc"],
    "AUTH_ISSUER": ["id.example", "ftp://id.example", f"https://u:{SECRET}@id.example", "https://id.example/#x"],
    "AUTH_AUDIENCE": ["x" * 256],
    "AUTH_JWKS_URL": ["keys.json", "file:///etc/passwd"],
    "AUTH_JWKS_FILE": ["/nowhere/keys.json", "."],
    "AUTH_ALGORITHMS": ["HS256", "none", "RS256,HS256", "rs256"],
    "WEB_CONCURRENCY": ["0", "-1", "257", "two", "1.5"],
    "DATABASE_URL": [
        SECRET,
        f"mysql://things:{SECRET}@db/things",
        f"postgresql+asyncpg://things:{SECRET}@db/things",
        f"postgresql//things:{SECRET}@db",
        f"postgresql://things:{SECRET}@db:port/things",
        f"postgresql://things:{SECRET}@db:1,db2:65536/things",
        f"postgresql://things:{SECRET}@db:0/things",
        f"postgresql://things:{SECRET}%zz@db/things",
        f"postgresql://things:{SECRET}@db/things?nonsense={SECRET}",
        f"postgresql://things:{SECRET}@[db/things",
        f"host=db password={SECRET}",
        f"postgresql://things:{SECRET}@one,two,three/things?port=1,2",
        f"postgresql://things:{SECRET}@one,two/things?hostaddr=127.0.0.1",
        f"postgresql://things:{SECRET}@db/things?connect_timeout=-1",
    ],
    "DB_POOL_SIZE": ["0", "-1", "101", "many"],
    "DB_POOL_TIMEOUT": ["0", "-1", "61", "nan", "inf", "soon"],
    "DB_POOL_RECYCLE": ["0", "-1", "nan"],
    "DB_STATEMENT_TIMEOUT": ["-1", "601", "nan", "5s"],
    "MAX_BODY_BYTES": ["0", "-1", "1MiB", "1.5"],
    "DRAIN_SECONDS": ["-1", "601", "nan", "soon"],
    "SHUTDOWN_TIMEOUT": ["0", "-1", "601", "inf"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_variable_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    message = fails(capsys)

    assert message.startswith(f"invalid configuration: {name}: ")
    assert ";" not in message


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AUTH_ISSUER": "https://id.example"}, "AUTH_AUDIENCE: required with AUTH_ISSUER"),
        ({"AUTH_AUDIENCE": "things"}, "AUTH_ISSUER: required with AUTH_AUDIENCE"),
        ({"AUTH_JWKS_URL": "https://id.example/keys"}, "AUTH_AUDIENCE: required with AUTH_JWKS_URL"),
        ({"AUTH_ALGORITHMS": "RS256"}, "AUTH_AUDIENCE: required with AUTH_ALGORITHMS"),
        ({"PORT": "9000", "OPS_PORT": "9000"}, "OPS_PORT: must differ from PORT"),
        (
            {
                "AUTH_ISSUER": "https://id.example",
                "AUTH_AUDIENCE": "things",
                "AUTH_JWKS_URL": "https://id.example/keys",
                "AUTH_JWKS_FILE": __file__,
            },
            "AUTH_JWKS_FILE: cannot be used with AUTH_JWKS_URL",
        ),
        *(
            (
                {"AUTH_ISSUER": issuer, "AUTH_AUDIENCE": "items", "ENVIRONMENT": environment},
                "AUTH_ISSUER: must be an https URL, unless ENVIRONMENT=development",
            )
            for issuer in (
                "http://id.example",
                "http://127.0.0.1.id.example",
                "http://localhost.example/a",
                "http://10.0.0.7",
            )
            for environment in ("production", "staging")
        ),
        (
            {
                "AUTH_ISSUER": "https://id.example",
                "AUTH_AUDIENCE": "items",
                "AUTH_JWKS_URL": "http://id.example/keys",
            },
            "AUTH_JWKS_URL: must be an https URL, unless ENVIRONMENT=development",
        ),
    ],
)
def test_variables_that_do_not_go_together_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert fails(capsys) == f"invalid configuration: {message}"


def test_an_issuer_keeps_its_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_ISSUER", "https://ID.example")
    monkeypatch.setenv("AUTH_AUDIENCE", "things")

    assert load_settings().auth_issuer == "https://ID.example"


@pytest.mark.parametrize(
    ("issuer", "environment"),
    [
        ("http://localhost/development", "production"),
        ("http://id.localhost:8080", "production"),
        ("http://127.0.0.1:3000", "production"),
        ("http://[::1]:3000", "production"),
        ("http://keycloak:8080/realms/shop", "development"),
    ],
)
def test_an_issuer_without_tls_is_for_development(
    monkeypatch: pytest.MonkeyPatch, issuer: str, environment: str
) -> None:
    variables = {"AUTH_ISSUER": issuer, "AUTH_AUDIENCE": "items", "ENVIRONMENT": environment}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert load_settings().auth_issuer == issuer


def test_every_bad_variable_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "abc")
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    monkeypatch.delenv("DATABASE_URL")

    message = fails(capsys)

    assert [name in message for name in ("PORT: ", "LOG_LEVEL: ", "DATABASE_URL: Field required")] == [True] * 3


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_the_database_url_is_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    if how == "missing":
        monkeypatch.delenv("DATABASE_URL")

    assert fails(capsys) == "invalid configuration: DATABASE_URL: Field required"


@pytest.mark.parametrize("variables", [{"PORT": "abc"}, {"DATABASE_URL": f"mysql://x:{SECRET}@db/x"}])
@pytest.mark.parametrize(
    "command", [["-c", "import app.main"], ["-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "head"]]
)
def test_whatever_is_started_stops_with_1_and_one_line(
    tmp_path: Path, command: list[str], variables: dict[str, str]
) -> None:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(**{"DATABASE_URL": URL, **variables}),
        capture_output=True,
        timeout=240,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr == b""
    [line] = result.stdout.decode().splitlines()
    assert next(iter(variables)) in json.loads(line)["message"]
    assert SECRET not in line


def test_the_defaults_are_the_contract_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_cores", lambda: 3)

    settings = load_settings()

    assert {
        name: getattr(settings, name)
        for name in ("service_name", "environment", "log_level", "host", "port", "max_body_bytes")
    } == {
        "service_name": __title__,
        "environment": "production",
        "log_level": "INFO",
        "host": "0.0.0.0",  # noqa: S104 - compared only
        "port": 8000,
        "max_body_bytes": 1024 * 1024,
    }
    assert (settings.drain_seconds, settings.shutdown_timeout, settings.forwarded_allow_ips) == (5, 30, "127.0.0.1")
    assert (settings.cors_origins, settings.trusted_hosts) == ((), ())


def test_settings_are_read_once_and_cannot_change() -> None:
    settings = load_settings()

    assert load_settings() is settings
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        if name != "database_url":
            monkeypatch.setenv(name.upper(), "")

    assert load_settings() == Settings(database_url=SecretStr(URL))


def test_the_dotenv_file_is_read_and_the_environment_goes_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("# mine\nPORT=9000\nLOG_LEVEL=debug\nSOMETHING_ELSE=1\nSERVICE_NAME=\n")
    monkeypatch.setenv("LOG_LEVEL", "warning")

    settings = load_settings()

    assert (settings.port, settings.log_level, settings.service_name) == (9000, "WARNING", __title__)


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example,")
    monkeypatch.setenv("TRUSTED_HOSTS", "a.example")

    settings = load_settings()

    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.trusted_hosts == ("a.example",)


def test_secrets_do_not_show() -> None:
    settings = load_settings()

    for text in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.database_url}"):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:1/d", {"user": "u", "password": "p", "host": "h", "port": "1", "dbname": "d"}),
        ("postgres://u:p@h/d", {"user": "u", "password": "p", "host": "h", "dbname": "d"}),
        ("postgresql+psycopg2://u:p@h/d", {"user": "u", "password": "p", "host": "h", "dbname": "d"}),
        ("postgresql://u:p%40%2F%3A@h/d", {"user": "u", "password": "p@/:", "host": "h", "dbname": "d"}),
        (
            "postgresql://u@a:1,b:2,c/d?target_session_attrs=read-write",
            {"user": "u", "host": "a,b,c", "port": "1,2,", "dbname": "d", "target_session_attrs": "read-write"},
        ),
        ("postgres://u@a,b/d", {"user": "u", "host": "a,b", "port": ",", "dbname": "d"}),
        ("postgresql://u@[::1]:5/d", {"user": "u", "host": "::1", "port": "5", "dbname": "d"}),
        ("postgresql:///d?host=/run/postgresql&user=u", {"host": "/run/postgresql", "user": "u", "dbname": "d"}),
        ("postgresql://%2Frun%2Fpostgresql/d", {"host": "/run/postgresql", "dbname": "d"}),
        (
            "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem",
            {"user": "u", "host": "h", "dbname": "d", "sslmode": "verify-full", "sslrootcert": "/ca.pem"},
        ),
    ],
)
def test_every_spelling_of_a_url_reaches_libpq(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: dict[str, str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    assert psycopg2.extensions.parse_dsn(load_settings().database_url.get_secret_value()) == expected


def test_our_connection_parameters_give_way_to_the_url_s() -> None:
    def arguments(query: str, **fields: Any) -> dict[str, Any]:
        return connect_arguments(Settings(database_url=SecretStr(f"postgresql://h/d{query}"), **fields))

    ours = arguments("", service_name="lamps", db_statement_timeout=1.5)
    assert ours["application_name"] == "lamps"
    assert ours["options"].startswith("-c statement_timeout=1500 -c lock_timeout=")
    assert ours["connect_timeout"] > 0
    theirs = arguments("?application_name=x&connect_timeout=9&options=-c%20work_mem%3D1MB", db_statement_timeout=1)
    assert theirs["application_name"] == "x"
    assert theirs["connect_timeout"] == 9
    assert arguments("?connect_timeout=0")["connect_timeout"] == ours["connect_timeout"]
    assert theirs["options"].startswith("-c work_mem=1MB -c statement_timeout=1000")
    assert "options" not in arguments("", db_statement_timeout=0)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("", 8)]
)
def test_workers_are_as_many_as_the_cores_that_we_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("builtins.open", lambda *_, **__: (tmp_path / "cpu.max").open())

    assert config._cores() == cores


EXAMPLE = ROOT / ".env.example"


def _examples() -> dict[str, str]:
    return dict(re.findall(r"^# ?([A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_the_example_has_every_variable_and_no_other() -> None:
    assert set(_examples()) == {name.upper() for name in all_fields()}


def test_the_example_as_it_is_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(EXAMPLE.read_text())

    assert load_settings() == Settings(database_url=SecretStr(URL))


def test_the_example_s_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _examples().items():
        field = all_fields()[name.lower()]
        if value:
            monkeypatch.setenv(name, value)
        if name not in {"DATABASE_URL", "WEB_CONCURRENCY"} and field.default is not None:
            assert value or field.default == ()

    defaults = Settings(database_url=load_settings().database_url, web_concurrency=load_settings().web_concurrency)
    assert load_settings() == defaults


def test_the_example_explains_each_variable_and_ships_no_secret() -> None:
    paragraphs = EXAMPLE.read_text().split("\n\n")
    for name in _examples():
        [paragraph] = [p for p in paragraphs if re.search(rf"^# ?{name}=", p, re.MULTILINE)]
        assert re.search(r"^# [A-Z]\w*[ :]", paragraph, re.MULTILINE), f"no comment explains {name}"
    assert re.fullmatch(r"postgresql://[^:@]*@?[^:@]*(:\d+)?/\w+|", _examples()["DATABASE_URL"])
