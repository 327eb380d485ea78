"""What a feature adds beside create, read, change and delete: an action on a row, and a create with a rule."""

from collections.abc import Iterator

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.core.api import APIRouter, ConditionalRequest, Conditions, IdempotencyKey, errors
from app.core.api.types import IdText
from app.core.database import DB, transaction
from app.core.errors import Conflict
from tests.conftest import SQL, MakeSettings
from tests.sample.app import create_app
from tests.sample.things import Thing, ThingCreate, ThingNotFound, ThingRow, things
from tests.support.errors import assert_error

router = APIRouter(prefix="/acts")


class Sold(Conflict):
    """It is sold already."""


class Enough(Conflict):
    """There are enough things."""


@transaction
def sell(session: Session, thing_id: int, conditions: ConditionalRequest) -> ThingRow:
    """Mark a thing as sold, by the ORM."""
    thing = session.get(ThingRow, thing_id, with_for_update=True)
    if thing is None:
        raise ThingNotFound(thing_id)
    conditions.require(thing)
    if thing.description == "sold":
        raise Sold
    thing.description = "sold"
    return thing


@transaction
def rename(session: Session, thing_id: int, name: str, conditions: ConditionalRequest) -> ThingRow:
    """Set what no body of a request has."""
    return things.update(session, thing_id, {"name": name}, conditions)


@transaction
def place(session: Session, thing: ThingCreate) -> ThingRow:
    """Insert a thing, by a rule."""
    if session.scalar(select(func.count()).select_from(ThingRow)) == 2:
        raise Enough
    return things.insert(session, thing)


@router.post("/{thing_id}/sell", response_model=Thing, responses=errors(ThingNotFound, Sold))
async def sell_thing(thing_id: IdText, db: DB, conditions: Conditions) -> object:
    """Sell a thing."""
    return conditions.checked(await sell(db, thing_id, conditions))


@router.post("/{thing_id}/sell-once", response_model=Thing, responses=errors(ThingNotFound, Sold))
async def sell_once(thing_id: IdText, db: DB, key: IdempotencyKey, conditions: Conditions) -> object:
    """Sell a thing, with the result of the first time if it is asked again."""
    return conditions.checked(await sell(db.once(key), thing_id, conditions))


@router.post("/{thing_id}/rename", response_model=Thing, responses=errors(ThingNotFound))
async def rename_thing(thing_id: IdText, db: DB, conditions: Conditions) -> object:
    """Rename a thing."""
    return conditions.checked(await rename(db, thing_id, "Renamed", conditions))


@router.post("/{thing_id}/forget", response_model=Thing)
async def forget_conditions(thing_id: IdText, db: DB, conditions: Conditions) -> object:
    """Change a thing whatever `If-Match` says."""
    return conditions.checked(await things.update(db, thing_id, {"name": "Other"}))


@router.post("", status_code=201, response_model=Thing, responses=errors(Enough))
async def place_thing(thing: ThingCreate, db: DB, key: IdempotencyKey, conditions: Conditions) -> object:
    """Create a thing."""
    return conditions.created(await place(db.once(key), thing))


@pytest.fixture
def client(make_settings: MakeSettings, sql: SQL) -> Iterator[TestClient]:
    """Add the actions to the sample."""
    sql("INSERT INTO things (name, price) VALUES ('Lamp', 1)")
    app = create_app(make_settings())
    app.include_router(router)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_an_action_by_the_orm_has_its_new_entity_tag(client: TestClient) -> None:
    sold = client.post("/acts/1/sell")

    assert (sold.status_code, sold.headers["ETag"], sold.json()["description"]) == (200, '"2"', "sold")
    assert client.get("/things/1").json() == sold.json()
    assert_error(client.post("/acts/1/sell"), 409, "SOLD")
    assert_error(client.post("/acts/2/sell"), 404, "THING_NOT_FOUND")


@pytest.mark.parametrize("action", ["sell", "rename"])
def test_an_action_on_what_has_changed_is_refused(client: TestClient, sql: SQL, action: str) -> None:
    stale = client.post(f"/acts/1/{action}", headers={"If-Match": '"7"'})
    unwanted = client.post(f"/acts/1/{action}", headers={"If-None-Match": "*"})

    assert_error(stale, 412, "PRECONDITION_FAILED")
    assert_error(unwanted, 412, "PRECONDITION_FAILED")
    assert sql("SELECT version FROM things") == [(1,)]
    assert client.post(f"/acts/1/{action}", headers={"If-Match": '"1"'}).headers["ETag"] == '"2"'


def test_an_action_that_forgets_the_conditions_fails_at_once(client: TestClient) -> None:
    assert_error(client.post("/acts/1/forget"), 500, "INTERNAL_ERROR")


def test_a_create_with_a_rule_is_answered_as_any_other(client: TestClient, sql: SQL) -> None:
    body, key = {"name": "Desk", "price": 2.5}, {"Idempotency-Key": "k"}

    first, again = (client.post("/acts", json=body, headers=key) for _ in range(2))

    assert (first.status_code, first.headers["ETag"], first.headers["Location"]) == (201, '"1"', "/acts/2")
    assert (again.status_code, again.content, again.headers["ETag"]) == (201, first.content, '"1"')
    assert (again.headers["Location"], again.headers["Idempotent-Replayed"]) == ("/acts/2", "true")
    assert_error(client.post("/acts", json=body), 409, "ENOUGH")
    assert sql("SELECT name FROM things ORDER BY id") == [("Lamp",), ("Desk",)]


def test_an_action_with_a_key_happens_once_on_the_version_it_is_meant_for(client: TestClient, sql: SQL) -> None:
    fields = {"Idempotency-Key": "k", "If-Match": '"1", "0"'}

    first, again = (client.post("/acts/1/sell-once", headers=fields) for _ in range(2))

    assert (first.status_code, first.headers["ETag"]) == (200, '"2"')
    assert (again.status_code, again.content, again.headers["ETag"]) == (200, first.content, '"2"')
    assert again.headers["Idempotent-Replayed"] == "true"
    assert client.post("/acts/1/sell-once", headers={**fields, "If-Match": '"0", "1"'}).content == first.content
    other = client.post("/acts/1/sell-once", headers={**fields, "If-Match": '"2"'})
    assert_error(other, 422, "IDEMPOTENCY_KEY_REUSED")
    assert sql("SELECT version FROM things") == [(2,)]


def test_the_document_has_the_conditions_of_an_action(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    action, create = paths["/acts/{thing_id}/sell"]["post"], paths["/acts"]["post"]
    assert {"If-Match", "If-None-Match"} <= {parameter["name"] for parameter in action["parameters"]}
    assert {"404", "409", "412"} <= action["responses"].keys()
    assert "ETag" in action["responses"]["200"]["headers"]
    assert "412" not in create["responses"]
    assert {"ETag", "Location"} <= create["responses"]["201"]["headers"].keys()
