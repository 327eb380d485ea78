"""Resources, pages and keys on real PostgreSQL, as store functions use them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import Connection, MetaData, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.api import RequestBody
from app.core.api.conditional_requests import PreconditionFailed, Preconditions
from app.core.api.pagination import PageQuery
from app.core.api.types import Money
from app.core.database import Base, Database, Versioned, transaction
from app.core.database.idempotency import IdempotencyKeyReused
from app.core.database.once import Once
from app.core.errors import DatabaseError
from app.core.resources import Pages, Resource
from tests.conftest import SQL, MakeSettings
from tests.sample.things import ThingCreate, ThingNotFound, ThingQuery, ThingRow, things

pytestmark = pytest.mark.anyio

LAMP = ThingCreate.model_validate({"name": "Lamp", "price": 19})
statements: list[str] = []


@pytest.fixture
async def db(make_settings: MakeSettings) -> AsyncIterator[Database]:
    """Count the statements of a database."""
    statements.clear()
    database = Database(make_settings(), [lambda _cursor, statement, *_: statements.append(statement)])
    yield database
    database.dispose()


def once(key: str, caller: str = "", replays: list[str] | None = None) -> Once:
    """Make the key of a request."""
    noted = [] if replays is None else replays
    return Once(caller, key, "POST /test", lambda: noted.append(key))


async def test_a_conditional_change_is_one_statement(db: Database, sql: SQL) -> None:
    thing = await things.insert(db, LAMP)
    statements.clear()
    match = Preconditions(if_match=frozenset({str(thing.version)}), if_none_match=None)

    changed = await things.update(db, thing.id, {"name": "Desk"}, match)

    assert (changed.name, changed.version) == ("Desk", 2)
    assert len(statements) == 1
    with pytest.raises(PreconditionFailed):
        await things.update(db, thing.id, {"name": "Chair"}, match)
    with pytest.raises(PreconditionFailed):
        await things.update(db, thing.id, {"name": "Chair"}, Preconditions(frozenset({"02"}), None))
    with pytest.raises(PreconditionFailed):
        await things.delete(db, thing.id, Preconditions(None, frozenset("*")))
    with pytest.raises(ThingNotFound):
        await things.update(db, 4711, {"name": "Chair"}, match)
    assert sql("SELECT name, version FROM things") == [("Desk", 2)]


async def test_the_version_changes_whatever_changes_the_row(db: Database, sql: SQL) -> None:
    thing = await things.insert(db, LAMP)
    sql("UPDATE things SET price = 20")

    now = await things.get(db, thing.id)

    assert now.version == thing.version + 1
    assert now.updated_at > thing.updated_at


async def test_creates_with_keys_share_statements_and_callers_share_none(db: Database, sql: SQL) -> None:
    replays: list[str] = []
    keys = [once(f"key-{n % 20}", f"caller-{n % 2}", replays) for n in range(120)]
    made = await asyncio.gather(*(things.insert(db.once(key), LAMP) for key in keys))

    # 20 keys, each of which one caller uses: caller-0 the even ones.
    assert sql("SELECT count(*) FROM things") == [(20,)]
    assert len({thing.id for thing in made}) == 20
    assert len(replays) == 100
    assert len(statements) < 60
    other = await things.insert(db.once(once("key-0", "caller-1", replays)), LAMP)
    assert other.id not in {thing.id for thing in made}


async def test_a_stored_answer_survives_a_migration(make_settings: MakeSettings, own_database_url: str) -> None:
    from tests.support.cluster import query  # noqa: PLC0415

    replays: list[str] = []
    database = Database(make_settings(database_url=own_database_url))
    try:
        first = await things.insert(database.once(once("k")), LAMP)
        query(own_database_url, "UPDATE idempotency_keys SET rows = jsonb_build_array(rows -> 0 #- '{version}')")
        query(own_database_url, "ALTER TABLE things ADD COLUMN stars integer NOT NULL DEFAULT 3")

        again = await things.insert(database.once(once("k", replays=replays)), LAMP)
    finally:
        database.dispose()
    assert (again.id, again.name, again.version) == (first.id, "Lamp", 1)
    assert replays == ["k"]


class LaterThingCreate(ThingCreate):
    """What a later version of the service takes."""

    colour: str | None = None


async def test_a_field_that_a_later_version_adds_is_no_other_request(db: Database) -> None:
    later = LaterThingCreate.model_validate({"name": "Lamp", "price": 19})
    first = await things.insert(db.once(once("k")), LAMP)
    many = await things.insert_many(db.once(once("many")), [LAMP, LAMP])

    assert (await things.insert(db.once(once("k")), later)).id == first.id
    assert [*await things.insert_many(db.once(once("many")), [later, later])] == [*many]
    with pytest.raises(IdempotencyKeyReused):
        await things.insert(db.once(once("k")), later.model_copy(update={"colour": "red"}))


class Question(Versioned, Base):
    """Has columns with names that the statements of `Resource` use, too."""

    __tablename__ = "questions"
    metadata = MetaData()

    key: Mapped[str]
    caller: Mapped[str] = mapped_column(server_default="x")
    fingerprint: Mapped[str | None]
    question: Mapped[str]
    n: Mapped[int]
    same: Mapped[bool] = mapped_column(server_default=false())
    expired: Mapped[bool] = mapped_column(server_default=false())
    made: Mapped[str | None]
    this_id: Mapped[int | None]
    if_match: Mapped[int | None]
    page_rows: Mapped[int | None]
    page_last_0: Mapped[int | None]
    question_of_row: Mapped[int | None]
    is_same_request: Mapped[bool | None]
    has_expired: Mapped[bool | None]


class QuestionCreate(RequestBody):
    """What is asked."""

    key: str
    fingerprint: str | None = None
    question: str
    n: int
    made: str | None = None


questions = Resource(Question, create=QuestionCreate, not_found=ThingNotFound)


async def test_a_column_may_have_any_name(db: Database, sql: SQL) -> None:
    sql(
        "CREATE TABLE questions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text, "
        "caller text DEFAULT 'x', fingerprint text, question text, n int, "
        "same bool DEFAULT false, expired bool DEFAULT false, made text, this_id int, if_match int, page_rows int, "
        "page_last_0 int, question_of_row int, is_same_request bool, has_expired bool, "
        "created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), version bigint DEFAULT 1)"
    )
    try:
        asked = [QuestionCreate(key=f"k{n}", question="?", n=7 - n) for n in range(3)]
        new = await questions.insert(db, asked[0])
        first, again = [await questions.insert_many(db.once(once("k")), asked) for _ in range(2)]
        assert ((new.key, new.caller, new.n), [*again]) == (("k0", "x", 7), [*first])
        assert [(row.id, row.key, row.n, row.expired) for row in first] == [
            (n + 2, f"k{n}", 7 - n, False) for n in range(3)
        ]
        with pytest.raises(IdempotencyKeyReused):
            await questions.insert_many(db.once(once("k")), asked[1:])
        changes = {"this_id": 3, "if_match": 4, "page_rows": 1}
        changed = await questions.update(db, 2, changes, Preconditions(frozenset({"1", "5"}), None))
        assert (changed.id, changed.this_id, changed.if_match) == (2, 3, 4)
        page = await questions.list(db, PageQuery(limit=2))
        both = PageQuery(limit=20, cursor=page.next_cursor), PageQuery(limit=20)
        rest, whole = await asyncio.gather(*[questions.list(db, query) for query in both])
        assert [row.id for row in (*page.items, *rest.items)] == [row.id for row in whole.items] == [1, 2, 3, 4]
    finally:
        sql("DROP TABLE questions")


class Receipt(BaseModel):
    """What was done."""

    id: int


tries: list[int] = []


@transaction
def buy(connection: Connection, name: str) -> Receipt:
    tries.append(1)
    values = {"name": name, "price": 1}
    new = text("INSERT INTO things (name, price) VALUES (:name, :price) RETURNING id")
    row_id = connection.execute(new, values).scalar_one()
    if name == "Dies" and len(tries) < 3:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    return Receipt(id=row_id)


@transaction
def returns_a_row(connection: Connection) -> Connection:
    return connection


class Lossy(BaseModel):
    """What is stored of it lacks what it requires."""

    version: Annotated[int, Field(exclude=True)]


@transaction
def returns_less_than_it_requires(connection: Connection) -> Lossy:
    connection.execute(text("INSERT INTO things (name, price) VALUES ('Lost', 1)"))
    return Lossy(version=1)


async def test_a_result_that_could_not_be_replayed_is_not_committed(db: Database, sql: SQL) -> None:
    with pytest.raises(TypeError, match=r"returns_less_than_it_requires: what is stored of its result lacks"):
        await returns_less_than_it_requires(db.once(once("k")))

    assert sql("SELECT count(*) FROM things") == [(0,)]


async def test_a_transaction_happens_once_for_a_key(db: Database, sql: SQL) -> None:
    replays: list[str] = []
    receipts = await asyncio.gather(*(buy(db.once(once("k", replays=replays)), "Lamp") for _ in range(8)))

    assert receipts == [receipts[0]] * 8
    assert (len(replays), sql("SELECT count(*) FROM things")) == (7, [(1,)])
    with pytest.raises(IdempotencyKeyReused):
        await buy(db.once(once("k")), "Desk")
    with pytest.raises(TypeError, match="pydantic"):
        await returns_a_row(db.once(once("row")))


async def test_a_transaction_whose_connection_dies_leaves_nothing_and_may_be_repeated(db: Database, sql: SQL) -> None:
    tries.clear()
    with pytest.raises(DatabaseError):
        await buy(db.once(once("k")), "Dies")
    assert sql("SELECT (SELECT count(*) FROM things), (SELECT count(*) FROM idempotency_keys)") == [(0, 0)]

    receipt = await buy(db.once(once("k")), "Dies")

    assert sql("SELECT id FROM things") == [(receipt.id,)]


class ByName(PageQuery):
    """A query whose filter is a column."""

    name: str | None = None


async def test_a_field_of_the_query_is_a_filter(db: Database) -> None:
    for name in ("Lamp", "Desk", "Lamp"):
        await things.insert(db, ThingCreate.model_validate({"name": name, "price": 1}))
    by_name = Pages(ThingRow, ByName)

    assert [thing.name for thing in (await by_name.list(db, ByName(name="Lamp"))).items] == ["Lamp", "Lamp"]
    assert len((await by_name.list(db, ByName())).items) == 3


def test_a_field_that_would_filter_nothing_is_an_error() -> None:
    with pytest.raises(TypeError, match="max_price is neither a column nor one of the filters"):
        Pages(ThingRow, ThingQuery, {"min_price": lambda price: ThingRow.price >= price})


def test_a_constraint_that_the_table_does_not_have_is_an_error() -> None:
    misspelt = {"ck_things_prise_positive": PreconditionFailed}
    with pytest.raises(TypeError, match="things has no constraint ck_things_prise_positive"):
        Resource(ThingRow, create=ThingCreate, not_found=ThingNotFound, constraints=misspelt)


class Nameless(RequestBody):
    """A body that lacks what the table needs."""

    price: Money


def test_a_column_that_would_have_no_value_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"things\.name may not be null"):
        Resource(ThingRow, create=Nameless, not_found=ThingNotFound)


async def test_first_pages_share_a_statement_and_each_has_its_own_size(db: Database, sql: SQL) -> None:
    sql("INSERT INTO things (name, price) SELECT 'Lamp' || n, n FROM generate_series(1, 30) AS n")
    await things.list(db, ThingQuery())
    statements.clear()
    limits = [1 + n % 20 for n in range(60)]

    answers = await asyncio.gather(*(things.list(db, ThingQuery(sort="-price", limit=limit)) for limit in limits))

    assert len(statements) < 30, len(statements)
    for limit, page in zip(limits, answers, strict=True):
        assert [row.price for row in page.items] == list(range(30, 30 - limit, -1))
        following = await things.list(db, ThingQuery(sort="-price", limit=3, cursor=page.next_cursor))
        assert [row.price for row in following.items] == list(range(30 - limit, 27 - limit, -1))
    cheap, all_of_them = await asyncio.gather(
        things.list(db, ThingQuery(max_price=2)), things.list(db, ThingQuery(limit=100))
    )
    assert (len(cheap.items), len(all_of_them.items), all_of_them.next_cursor) == (2, 30, None)
