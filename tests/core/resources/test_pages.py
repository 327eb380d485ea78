"""Pages under a path parameter, and streams of all rows, as a feature's router has them."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

import pytest
from fastapi import Query
from sqlalchemy import DateTime, Index, MetaData, Numeric
from sqlalchemy.orm import Mapped, mapped_column
from starlette.testclient import TestClient

from app.core.api import APIRouter, Links, Page
from app.core.api.pagination import PageQuery
from app.core.api.types import IdText
from app.core.database import DB, Base, Database, Versioned
from app.core.resources import Pages
from app.core.resources.page_statements import SHARED_PAGES, PageStatement
from tests.conftest import SQL, MakeSettings
from tests.sample.app import create_app
from tests.sample.things import Thing, ThingQuery, ThingRow, things
from tests.support.errors import assert_error

ROWS, CHUNK = 200_000, 1000
BLOCKS = 100
"""Blocks of memory that a row of a chunk may take; it has about 6."""

every_thing = Pages(ThingRow)
of_version = Pages(ThingRow, PageQuery, {"of_version": ThingRow.version})
router = APIRouter(prefix="/versions")


@router.get("/{version}/things", response_model=Page[Thing])
async def list_of_version(version: IdText, query: Annotated[PageQuery, Query()], db: DB, links: Links) -> object:
    """List the things of a version."""
    return links.checked(await of_version.list(db, query, of_version=version))


@router.get("/{version}/sample", response_model=Page[Thing])
async def list_by_column(version: IdText, query: Annotated[ThingQuery, Query()], db: DB, links: Links) -> object:
    """List the things of a version, which is a column."""
    return links.checked(await things.list(db, query, version=version))


@router.get("/named/{name}", response_model=Page[Thing])
async def list_by_name(name: str, query: Annotated[PageQuery, Query()], db: DB, links: Links) -> object:
    """List the things of a name."""
    return links.checked(await every_thing.list(db, query, name=name))


@router.get("/things")
async def stream_things(db: DB) -> AsyncIterator[Thing]:
    """Stream all things, a line each."""
    async for thing in every_thing.stream(db, PageQuery(sort="-id")):
        yield Thing.model_validate(thing)


@pytest.fixture
def pages(make_settings: MakeSettings) -> Iterator[TestClient]:
    """Serve the routes of this module."""
    app = create_app(make_settings())
    app.include_router(router)
    with TestClient(app) as client:
        yield client


def test_a_page_under_a_path_parameter(pages: TestClient, sql: SQL) -> None:
    sql("INSERT INTO things (name, price, version) SELECT 'n', 1, 1 + n % 2 FROM generate_series(1, 11) AS n")
    lists = [(version, path) for version in (1, 2) for path in ("things", "sample")]
    for version, path in lists:
        seen, url = [], f"/versions/{version}/{path}?limit=2"
        while url:
            response = pages.get(url)
            seen += [thing["id"] for thing in response.json()["items"]]
            url = response.links["next"]["url"] if response.links else ""
            assert not url or url.startswith(f"/versions/{version}/{path}?limit=2&cursor=")
        assert seen == list(range(3 - version, 12, 2))


def test_the_link_has_any_path_as_a_reference(pages: TestClient, sql: SQL) -> None:
    name = 'ランプ>; rel="x"'
    sql("INSERT INTO things (name, price) SELECT %s, 1 FROM generate_series(1, 3)", [name])

    response = pages.get(f"/versions/named/{quote(name)}?limit=2")

    assert response.status_code == 200
    assert list(response.links) == ["next"]
    following = response.links["next"]["url"]
    assert following.startswith(f"/versions/named/{quote(name)}?limit=2&cursor=")
    assert [thing["id"] for thing in pages.get(following).json()["items"]] == [3]


@pytest.mark.parametrize("path", ["things", "sample"])
def test_a_cursor_belongs_to_its_path(pages: TestClient, sql: SQL, path: str) -> None:
    sql("INSERT INTO things (name, price, version) SELECT 'n', 1, 1 + n % 2 FROM generate_series(1, 11) AS n")
    cursor = pages.get(f"/versions/1/{path}?limit=2").json()["next_cursor"]

    assert pages.get(f"/versions/1/{path}?limit=2&cursor={cursor}").status_code == 200
    assert_error(pages.get(f"/versions/2/{path}?limit=2&cursor={cursor}"), 422, "INVALID_INPUT")
    if path == "sample":
        assert_error(pages.get(f"/things?limit=2&cursor={cursor}"), 422, "INVALID_INPUT")
        assert pages.get("/versions/2/sample?name=n&max_price=0").json()["items"] == []


@pytest.mark.anyio
async def test_a_list_says_what_it_is_to_be_given(make_settings: MakeSettings) -> None:
    db = Database(make_settings())
    try:
        with pytest.raises(TypeError, match=r"needs \['of_version'\].*gave \[\]"):
            await of_version.list(db, PageQuery())
        with pytest.raises(TypeError, match=r"takes columns only.*gave \['colour'\]"):
            await things.list(db, ThingQuery(), colour="red")
    finally:
        db.dispose()


def test_a_list_whose_query_names_no_sorts_has_the_order_of_ids(pages: TestClient) -> None:
    assert pages.get("/versions/1/things?sort=-id").status_code == 200
    assert_error(pages.get("/versions/1/things?sort=price"), 422, "INVALID_INPUT")
    assert_error(pages.get("/versions/1/things?sort=nowhere"), 422, "INVALID_INPUT")


def test_a_handler_streams_all_rows(pages: TestClient, sql: SQL) -> None:
    sql("INSERT INTO things (name, price) SELECT 'n', 1 FROM generate_series(1, 2500) AS n")

    response = pages.get("/versions/things")

    assert response.headers["Content-Type"] == "application/jsonl"
    assert [Thing.model_validate_json(line).id for line in response.text.splitlines()] == [*range(2500, 0, -1)]


@pytest.mark.anyio
async def test_a_stream_holds_neither_memory_nor_a_transaction(make_settings: MakeSettings, sql: SQL) -> None:
    sql("INSERT INTO things (name, price) SELECT 'n', 1 + n FROM generate_series(1, %s) AS n", [ROWS])
    statements: list[str] = []
    db = Database(make_settings(), [lambda _cursor, statement, *_: statements.append(statement)])
    gc.collect()
    before, seen, blocks, held = sys.getallocatedblocks(), 0, 0, 0

    try:
        async for thing in every_thing.stream(db, PageQuery(sort="-id")):
            seen += 1
            if seen % 50_000 == 1:
                blocks = max(blocks, sys.getallocatedblocks() - before)
                [(transactions,)] = sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND backend_type = 'client backend' "
                    "AND (state LIKE 'idle in transaction%' OR state = 'active')"
                )
                held += transactions
            last = thing
    finally:
        db.dispose()

    assert (seen, last.id, held, len(statements)) == (ROWS, 1, 0, ROWS // CHUNK)
    assert blocks < CHUNK * BLOCKS, "the rows of more than one chunk were held"


SORTS: tuple[str, ...] = get_args(ThingQuery.model_fields["sort"].annotation)
TIES = (
    "INSERT INTO things (name, price, created_at) SELECT (ARRAY['b', 'B', 'ä', '\"{,', '日'])[1 + n % 5], 1 + n % 4, "
    "'2026-01-01Z'::timestamptz + n % 3 * interval '1 microsecond' FROM generate_series(1, 90) AS n"
)


async def follow(db: Database, query: ThingQuery) -> list[ThingQuery]:
    """List the queries of all pages, one after the other."""
    found = [query]
    while cursor := (await things.list(db, found[-1])).next_cursor:
        found.append(query.model_copy(update={"cursor": cursor}))
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("sort", SORTS)
async def test_pages_that_share_a_statement_are_those_that_are_read_alone(
    make_settings: MakeSettings, sql: SQL, sort: str
) -> None:
    sql(TIES)
    statements: list[str] = []
    db = Database(make_settings(), [lambda _cursor, statement, *_: statements.append(statement)])
    try:
        queries = await follow(db, ThingQuery.model_validate({"sort": sort, "limit": 7}))
        queries = [*queries, *queries, *(query.model_copy(update={"limit": 2}) for query in queries)]
        alone = [await things.list(db, query) for query in queries]
        statements.clear()
        together = await asyncio.gather(*(things.list(db, query) for query in queries))
    finally:
        db.dispose()

    assert [[row.id for row in page.items] for page in together] == [[row.id for row in page.items] for page in alone]
    assert [page.next_cursor for page in together] == [page.next_cursor for page in alone]
    # Of first and later pages, at most ten share one: all of their rows are in memory together.
    assert 1 + 36 / SHARED_PAGES <= len(statements) <= 4 + 36 / SHARED_PAGES, statements


@pytest.mark.anyio
async def test_a_filtered_or_large_page_has_a_statement_of_its_own(make_settings: MakeSettings, sql: SQL) -> None:
    sql(TIES)
    db = Database(make_settings(), [lambda _cursor, statement, *_: statements.append(statement)])
    statements: list[str] = []
    given: list[dict[str, Any]] = [{"min_price": 2}, {"name": "b"}, {"limit": 21}]
    try:
        for values in given:
            statements.clear()
            query = ThingQuery.model_validate(values)
            await asyncio.gather(*(things.list(db, query) for _ in range(6)))
            assert len(statements) == 6, values
    finally:
        db.dispose()


class Jot(Versioned, Base):
    """A table whose indexes do not have the order of every list."""

    __tablename__ = "jots"
    metadata = MetaData()
    __table_args__ = (
        Index(None, "size", "id"),
        Index(None, "age", "id", postgresql_where="age > 3"),
        Index(None, "id", "kind"),
    )

    size: Mapped[int]
    age: Mapped[int]
    kind: Mapped[int]


def test_pages_whose_order_no_index_has_share_nothing() -> None:
    table: Any = Jot.__table__
    shareable = [
        sort for sort in ("id", "-size", "age", "kind") if PageStatement(table, sort, [], first=False).shareable
    ]
    assert shareable == ["id", "-size"]


class Reading(Versioned, Base):
    """Has columns whose types say little."""

    __tablename__ = "readings"
    metadata = MetaData()

    amount: Mapped[Decimal]
    whole: Mapped[Decimal] = mapped_column(Numeric(12))
    at: Mapped[datetime] = mapped_column(DateTime())


class ReadingQuery(PageQuery):
    """Can be sorted by them."""

    sort: Literal["amount", "whole", "at"] = "amount"


@pytest.mark.anyio
@pytest.mark.parametrize("sort", get_args(ReadingQuery.model_fields["sort"].annotation))
async def test_a_column_of_any_precision_can_be_sorted_by(make_settings: MakeSettings, sql: SQL, sort: Any) -> None:
    sql(
        "CREATE TABLE readings AS SELECT n::bigint AS id, n / 10.0 AS amount, n::numeric(12) AS whole, "
        "timestamp '2026-01-01' + n * interval '1 day' AS at, now() AS created_at, now() AS updated_at, "
        "1::bigint AS version FROM generate_series(1, 5) AS n"
    )
    readings, database = Pages(Reading, ReadingQuery), Database(make_settings())
    try:
        seen, query = [], ReadingQuery(sort=sort, limit=2)
        while True:
            page = await readings.list(database, query)
            seen += [row.id for row in page.items]
            if page.next_cursor is None:
                break
            query = query.model_copy(update={"cursor": page.next_cursor})
    finally:
        database.dispose()
        sql("DROP TABLE readings")
    assert seen == [1, 2, 3, 4, 5]
