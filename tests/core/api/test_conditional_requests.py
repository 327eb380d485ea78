"""What a handler cannot forget about the conditions of its request."""

from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

from app.core.api import APIRouter, Conditions
from app.core.api.types import IdText
from app.core.database import DB
from tests.conftest import SQL, MakeSettings
from tests.sample.app import create_app
from tests.sample.things import Thing, ThingPatch, things
from tests.support.errors import assert_error

router = APIRouter(prefix="/forgetful")


@router.patch("/{thing_id}", response_model=Thing)
async def patch_thing(thing_id: IdText, patch: ThingPatch, db: DB, conditions: Conditions) -> object:
    """Change a thing whatever `If-Match` says."""
    return conditions.checked(await things.update(db, thing_id, patch))


def test_a_handler_that_ignores_if_match_fails_at_its_first_request(
    make_settings: MakeSettings, sql: SQL, logs: Callable[[], list[dict[str, Any]]]
) -> None:
    sql("INSERT INTO things (name, price) VALUES ('Lamp', 1)")
    app = create_app(make_settings())
    app.include_router(router)
    with TestClient(app, raise_server_exceptions=False) as client:
        ignored = client.patch("/forgetful/1", json={"price": 3})

    assert_error(ignored, 500, "INTERNAL_ERROR")
    [line] = [line for line in logs() if line["message"] == "unhandled error"]
    assert "IgnoredConditions: give `conditions` to the store function" in line["exc_info"]
