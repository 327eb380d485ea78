"""The files of a new resource, for `scripts/new_resource.py`."""

FILES = {
    "app/{many}/__init__.py": "",
    "app/{many}/models.py": '''"""The table."""

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped

from app.core.database import Base, Versioned


class {One}(Versioned, Base):
    """{A} {one}. Every sort of the list has its index, with `id` to tell equals apart."""

    __tablename__ = "{many}"
    __table_args__ = (
        CheckConstraint("char_length(name) BETWEEN 1 AND 255", name="name_length"),
        Index(None, "created_at", "id"),
    )

    name: Mapped[str]
''',
    "app/{many}/schemas.py": '''"""What goes in and out: the bodies and the query of the {many} routes."""

from typing import Literal

from app.core.api import MergePatch, PageQuery, RequestBody, ResourceBody
from app.core.api.types import Name


class {One}Create(RequestBody):
    """What a client sends to make {a} {one}."""

    name: Name


class {One}Patch(MergePatch, total=False):
    """A JSON merge patch (RFC 7396): what is absent stays, null clears what may be null."""

    name: Name


class {One}(ResourceBody):
    """{A} {one} as clients see it."""

    name: str


class {One}Query(PageQuery):
    """The query of `GET /{many}`."""

    sort: Literal["id", "-id", "created_at", "-created_at"] = "id"
''',
    "app/{many}/store.py": '''"""The {many} in the database, and what can go wrong with them."""

from app.core.errors import ResourceNotFound
from app.core.resources import Resource
from app.{many}.models import {One}
from app.{many}.schemas import {One}Create, {One}Patch, {One}Query


class {One}NotFound(ResourceNotFound):
    """There is no such {one}."""


{many} = Resource({One}, create={One}Create, patch={One}Patch, query={One}Query, not_found={One}NotFound)
''',
    "app/{many}/router.py": '''"""`/{many}`: typed input, one unit of work, one answer."""

from typing import Annotated

from fastapi import Query

from app.core.api import APIRouter, Conditions, IdempotencyKey, Links, Page, errors
from app.core.api.types import IdText
from app.core.database import DB
from app.{many}.schemas import {One}, {One}Create, {One}Patch, {One}Query
from app.{many}.store import {One}NotFound, {many}

router = APIRouter(prefix="/{many}", tags=["{many}"], scopes="{many}")


@router.get("/{{{one}_id}}", response_model={One}, responses=errors({One}NotFound))
async def get_{one}({one}_id: IdText, db: DB, conditions: Conditions) -> object:
    """Read one {one}."""
    return conditions.checked(await {many}.get(db, {one}_id))


@router.post("", status_code=201, response_model={One})
async def create_{one}({one}: {One}Create, db: DB, key: IdempotencyKey, conditions: Conditions) -> object:
    """Create {a} {one}."""
    return conditions.created(await {many}.insert(db.once(key), {one}))


@router.get("", response_model=Page[{One}])
async def list_{many}(query: Annotated[{One}Query, Query()], db: DB, links: Links) -> object:
    """List {many}, a page at a time."""
    return links.checked(await {many}.list(db, query))


@router.patch("/{{{one}_id}}", response_model={One}, responses=errors({One}NotFound))
async def patch_{one}({one}_id: IdText, patch: {One}Patch, db: DB, conditions: Conditions) -> object:
    """Change {a} {one} by a JSON merge patch."""
    return conditions.checked(await {many}.update(db, {one}_id, patch, conditions))


@router.delete("/{{{one}_id}}", status_code=204, responses=errors({One}NotFound))
async def delete_{one}({one}_id: IdText, db: DB, conditions: Conditions) -> None:
    """Delete {a} {one}."""
    await {many}.delete(db, {one}_id, conditions)
''',
    "tests/{many}/test_router.py": '''"""The {many} routes, each on real PostgreSQL."""

from typing import Any

from starlette.testclient import TestClient

from tests.conftest import SQL
from tests.support.errors import assert_error


def new(number: int = 1) -> dict[str, Any]:
    """Make the body of a create."""
    return {{"name": f"Number {{number}}"}}


def test_{a}_{one}_is_created_read_changed_and_deleted(client: TestClient, sql: SQL) -> None:
    created = client.post("/{many}", json=new())
    assert created.status_code == 201, created.text
    url, tag = created.headers["Location"], created.headers["ETag"]
    assert client.get(url).json() == created.json()

    changed = client.patch(url, json={{"name": "Second"}}, headers={{"If-Match": tag}})
    assert (changed.status_code, changed.json()["name"]) == (200, "Second")
    assert_error(client.delete(url, headers={{"If-Match": tag}}), 412, "PRECONDITION_FAILED")
    assert client.delete(url).status_code == 204
    assert_error(client.get(url), 404, "{ONE}_NOT_FOUND")
    assert sql("SELECT * FROM {many}") == []


def test_a_repeated_create_happens_once(client: TestClient, sql: SQL) -> None:
    headers = {{"Idempotency-Key": "one"}}
    first, second = (client.post("/{many}", json=new(), headers=headers) for _ in range(2))

    assert (second.status_code, second.json()) == (201, first.json())
    assert second.headers["Idempotent-Replayed"] == "true"
    assert sql("SELECT count(*) FROM {many}") == [(1,)]


def test_a_walk_returns_each_{one}_once(client: TestClient) -> None:
    made = [client.post("/{many}", json=new(number)).json() for number in range(5)]
    seen, url = [], "/{many}?limit=2&sort=-created_at"
    while url:
        response = client.get(url)
        seen += response.json()["items"]
        url = response.links["next"]["url"] if response.links else ""

    assert seen == made[::-1]


def test_invalid_input_is_refused(client: TestClient) -> None:
    for body in ({{}}, new() | {{"name": ""}}, new() | {{"name": 1}}, new() | {{"other": 1}}):
        assert_error(client.post("/{many}", json=body), 422, "INVALID_INPUT")
''',
}
