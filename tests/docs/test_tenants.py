"""`docs/tenants.md` works as it stands: its SQL and its code serve two tenants, who do not see each other's rows."""

import importlib
import json
import re
import secrets
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.core.config import Settings
from app.main import create_app
from tests.support.cluster import connected, query
from tests.support.errors import assert_error
from tests.support.service import ROOT
from tests.support.tokens import AUDIENCE, ISSUER, Signer, claims

PAGE = (ROOT / "docs/tenants.md").read_text()
SIGNER = Signer()
ROLE = "tenants_page"


def blocks(language: str) -> list[str]:
    """Read the page's blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def tenant_database(superuser_url: str) -> Iterator[str]:
    """Name a database with the page's table, as a role that is neither its owner nor a superuser."""
    password = secrets.token_hex()
    (sql,) = blocks("sql")
    with connected(superuser_url) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        cursor.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD %s", (password,))
        cursor.execute(f"GRANT SELECT, INSERT ON notes TO {ROLE}")
    parts = urlsplit(superuser_url)
    yield urlunsplit(parts._replace(netloc=f"{ROLE}:{password}@{parts.netloc.rpartition('@')[2]}"))
    query(superuser_url, f"DROP OWNED BY {ROLE}")
    query(superuser_url, f"DROP ROLE {ROLE}")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the page's router, with its store."""
    folder = tmp_path / "notes_of_page"
    folder.mkdir()
    (folder / "__init__.py").touch()
    store, router = blocks("python")
    (folder / "store.py").write_text(store)
    (folder / "router.py").write_text("from notes_of_page import store\n" + router)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("notes_of_page")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("notes_of_page.router")


@pytest.fixture
def client(tenant_database: str, notes: ModuleType, tmp_path: Path) -> Iterator[TestClient]:
    """Serve the page's router with authentication on."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [SIGNER.jwk]}))
    settings = Settings(
        database_url=SecretStr(tenant_database), auth_issuer=ISSUER, auth_audience=AUDIENCE, auth_jwks_file=keys
    )
    with TestClient(create_app(settings)) as client:
        app = client.app
        assert isinstance(app, FastAPI)
        app.include_router(notes.router)
        yield client


def token(tenant: object) -> dict[str, str]:
    """Make the header of a caller of a tenant."""
    signed = SIGNER.sign(claims(scope="notes:read notes:write", tenant=tenant))
    return {"Authorization": f"Bearer {signed}"}


def test_tenants_do_not_see_each_other_s_rows(client: TestClient) -> None:
    ours = client.post("/notes", json={"body": "ours"}, headers=token("a")).json()["id"]
    theirs = client.post("/notes", json={"body": "theirs"}, headers=token("b")).json()["id"]

    assert client.get(f"/notes/{ours}", headers=token("a")).json() == {"id": ours, "body": "ours"}
    assert_error(client.get(f"/notes/{theirs}", headers=token("a")), 404, "NOT_FOUND")
    assert_error(client.get(f"/notes/{ours}", headers=token("b")), 404, "NOT_FOUND")


def test_a_shared_statement_mixes_no_tenants(client: TestClient) -> None:
    ids = {t: client.post("/notes", json={"body": t}, headers=token(t)).json()["id"] for t in "abcd"}
    headers = {t: token(t) for t in ids}

    def get(tenants: tuple[str, str]) -> tuple[int, str | None]:
        caller, owner = tenants
        response = client.get(f"/notes/{ids[owner]}", headers=headers[caller])
        return response.status_code, response.json().get("body")

    pairs = [(caller, owner) for caller in ids for owner in ids] * 8
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(get, pairs))

    assert answers == [(200, owner) if caller == owner else (404, None) for caller, owner in pairs]


@pytest.mark.parametrize("tenant", [None, "", 7, ["a"]])
def test_a_token_without_a_tenant_is_403(client: TestClient, tenant: object) -> None:
    assert_error(client.post("/notes", json={"body": "x"}, headers=token(tenant)), 403, "FORBIDDEN")


def test_the_database_hides_rows_from_a_statement_without_a_predicate(client: TestClient, tenant_database: str) -> None:
    for tenant in "ab":
        client.post("/notes", json={"body": tenant}, headers=token(tenant))

    assert query(tenant_database, "SELECT body FROM notes") == []
    assert query(tenant_database, "SELECT set_config('app.tenant', 'b', true); SELECT body FROM notes") == [("b",)]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(
            tenant_database, "SELECT set_config('app.tenant', 'b', true); INSERT INTO notes VALUES ('a', DEFAULT, 'x')"
        )


def test_no_tenant_stays_on_a_connection(client: TestClient, tenant_database: str) -> None:
    """Whatever connection of the pool a statement gets, no setting is left of the one before."""
    client.post("/notes", json={"body": "a"}, headers=token("a"))
    with connected(tenant_database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('app.tenant', 'a', true); SELECT body FROM notes")
        assert cursor.fetchall() == [("a",)]
        cursor.execute("SELECT body FROM notes")
        assert cursor.fetchall() == []
