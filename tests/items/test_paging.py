"""Keyset paging: a walk returns each row once, in order, whatever happens to the others meanwhile."""

import base64
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest
import sqlalchemy
from starlette.testclient import TestClient

from app.core.api.pagination import _digest
from app.items import store
from app.items.schemas import ItemQuery
from tests.conftest import SQL
from tests.support.errors import assert_error
from tests.support.service import eventually

SORTS = ("id", "name", "price", "created_at")
BOTH_WAYS = [sign + sort for sort in SORTS for sign in ("", "-")]


def pages(client: TestClient, **query: Any) -> Iterator[list[dict[str, Any]]]:
    """Walk to the end by `next_cursor`, checking each page's `Link` on the way."""
    cursor: str | None = None
    for _ in range(2000):
        response = client.get("/items", params={**query, **({"cursor": cursor} if cursor else {})})
        assert response.status_code == 200, response.text
        page = response.json()
        assert page.keys() == {"items", "next_cursor"}
        cursor = page["next_cursor"]
        if cursor is None:
            assert "link" not in response.headers
        else:
            assert response.links["next"]["url"]
            linked = parse_qs(urlsplit(response.links["next"]["url"]).query)
            assert linked == {key: [str(value)] for key, value in {**query, "cursor": cursor}.items()}
        yield page["items"]
        if cursor is None:
            return
    raise AssertionError("the walk has no end")


def walk(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    """List everything."""
    return [item for page in pages(client, **query) for item in page]


def in_order(items: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Sort as the contract has it; Python too compares strings by code point."""
    name = sort.removeprefix("-")
    value: Callable[[str], Any] = datetime.fromisoformat if name == "created_at" else lambda v: v
    return sorted(items, key=lambda item: (value(item[name]), item["id"]), reverse=sort.startswith("-"))


@pytest.fixture
def ties(sql: SQL) -> None:
    """Insert 90 rows, in which every name, price and time occurs many times."""
    sql(
        "INSERT INTO items (name, price, created_at) "
        "SELECT (ARRAY['b', 'B', 'a', 'ab', 'ä', 'Z', '日'])[1 + n % 7], 1 + n % 4, "
        "'2026-01-01Z'::timestamptz + n % 3 * interval '1 microsecond' "
        "FROM generate_series(1, 90) AS n"
    )


@pytest.mark.usefixtures("ties")
@pytest.mark.parametrize("sort", BOTH_WAYS)
@pytest.mark.parametrize("limit", [1, 7, 90])
def test_a_walk_has_every_row_once_and_in_order(client: TestClient, sort: str, limit: int) -> None:
    items = walk(client, sort=sort, limit=limit)

    assert sorted(item["id"] for item in items) == list(range(1, 91))
    assert items == in_order(items, sort)


@pytest.mark.usefixtures("ties")
def test_pages_are_as_long_as_asked_and_20_by_default(client: TestClient) -> None:
    assert [len(page) for page in pages(client)] == [20, 20, 20, 20, 10]
    assert [len(page) for page in pages(client, limit=45)] == [45, 45]
    assert [item["id"] for item in walk(client)] == list(range(1, 91))


@pytest.mark.usefixtures("ties")
@pytest.mark.parametrize("sort", BOTH_WAYS)
def test_filters_and_sorts_combine(client: TestClient, sql: SQL, sort: str) -> None:
    query = {"name": "a", "min_price": "2.00", "max_price": "3", "sort": sort, "limit": 3}

    items = walk(client, **query)

    expected = sql("SELECT id FROM items WHERE left(name, 1) = 'a' AND price BETWEEN 2 AND 3")
    assert len(expected) > 6
    assert sorted(item["id"] for item in items) == sorted(item_id for (item_id,) in expected)
    assert items == in_order(items, sort)


def test_price_bounds_are_inclusive_and_exact(client: TestClient, sql: SQL) -> None:
    sql("INSERT INTO items (name, price) SELECT 'x', unnest(ARRAY[0.29, 0.30, 0.31, 9999999999.98, 9999999999.99])")

    assert [i["price"] for i in walk(client, min_price="0.30", max_price="0.30")] == [0.3]
    assert [i["price"] for i in walk(client, min_price="0.3", max_price="9999999999.98")] == [0.3, 0.31, 9999999999.98]
    assert [i["price"] for i in walk(client, min_price="9999999999.99")] == [9999999999.99]
    assert walk(client, min_price=5, max_price=4) == []


@pytest.mark.parametrize("prefix", ["%", "_", "\\", "a%", "a_", "a\\", "/", "'", '"', "a%b", "[", "*", "."])
def test_wildcards_in_the_prefix_are_literal(client: TestClient, sql: SQL, prefix: str) -> None:
    """Names that the API refuses can come from elsewhere."""
    names = ["abc", "a%b", "a_b", "a\\b", "%", "_", "\\", "a/", "b"]
    sql("INSERT INTO items (name, price) SELECT unnest(%s), 1", (names,))

    assert sorted(i["name"] for i in walk(client, name=prefix)) == sorted(n for n in names if n.startswith(prefix))


def test_prefixes_are_of_code_points_and_exact_in_case(client: TestClient, sql: SQL) -> None:
    names = ["Lamp", "lamp", "Lam", "ランプ", "ラ", "Größe", "Gros", "𠀋y"]
    sql("INSERT INTO items (name, price) SELECT unnest(%s), 1", (names,))

    for prefix, expected in {
        "Lam": ["Lam", "Lamp"],
        "l": ["lamp"],
        "ラ": ["ラ", "ランプ"],
        "Grö": ["Größe"],
        "𠀋": ["𠀋y"],
        "Lampe": [],
    }.items():
        assert [item["name"] for item in walk(client, name=prefix, sort="name")] == expected


@pytest.mark.usefixtures("ties")
@pytest.mark.parametrize("sort", BOTH_WAYS)
def test_the_row_at_the_cursor_may_be_deleted_or_changed(client: TestClient, sql: SQL, sort: str) -> None:
    everything = [item["id"] for item in walk(client, sort=sort)]
    first = client.get("/items", params={"sort": sort, "limit": 10}).json()

    sql("DELETE FROM items WHERE id = %s", (everything[9],))
    second = client.get("/items", params={"sort": sort, "limit": 10, "cursor": first["next_cursor"]}).json()

    assert [item["id"] for item in second["items"]] == everything[10:20]


@pytest.mark.parametrize("sort", BOTH_WAYS)
def test_a_walk_under_inserts_and_deletes_neither_skips_nor_repeats(client: TestClient, sql: SQL, sort: str) -> None:
    sql("INSERT INTO items (name, price) SELECT 'stays' || n % 50, 1 + n % 20 FROM generate_series(1, 200) AS n")
    staying = {item_id for (item_id,) in sql("SELECT id FROM items")}
    done = threading.Event()
    changes: list[str] = []

    def disturb() -> None:
        generator = random.Random(sort)  # noqa: S311 - the same at every run
        while not done.is_set() and len(changes) < 500:  # or a slow walk along new rows would have no end
            time.sleep(0.002)
            name = generator.choice(["a", "stays2", "stays30", "z"])
            sql(
                "INSERT INTO items (name, price) SELECT %s, %s FROM generate_series(1, 3)",
                (name, generator.randint(1, 20)),
            )
            sql("DELETE FROM items WHERE id IN (SELECT id FROM items WHERE id > 200 ORDER BY random() LIMIT 2)")
            changes.append(name)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        eventually(lambda: changes)
        walked = [item["id"] for item in walk(client, sort=sort, limit=7)]
    finally:
        done.set()
        thread.join(120)

    assert len(walked) == len(set(walked))
    assert staying <= set(walked)


@pytest.mark.usefixtures("ties")
def test_the_link_leads_on(client: TestClient) -> None:
    response = client.get("/items?limit=50&sort=-name&min_price=1")

    following = client.get(response.links["next"]["url"])

    assert len(following.json()["items"]) == 40
    assert following.json()["next_cursor"] is None


@pytest.mark.usefixtures("ties")
@pytest.mark.parametrize(
    "query",
    [
        {"sort": "-id"},
        {"sort": "name"},
        {"name": "a"},
        {"min_price": 1},
        {"max_price": 3},
        {"name": "a", "sort": "price"},
    ],
)
def test_a_cursor_of_another_list_is_refused(client: TestClient, query: dict[str, Any]) -> None:
    cursor = client.get("/items", params={"limit": 3}).json()["next_cursor"]

    detail = assert_error(client.get("/items", params={**query, "cursor": cursor}), 422, "INVALID_INPUT")

    assert detail["errors"][0]["loc"] == ["query", "cursor"]


@pytest.mark.usefixtures("ties")
@pytest.mark.parametrize("sort", BOTH_WAYS)
def test_a_damaged_cursor_is_refused(client: TestClient, sort: str) -> None:
    cursor: str = client.get("/items", params={"limit": 3, "sort": sort}).json()["next_cursor"]
    swapped = [
        cursor[:n] + random.Random(n).choice(["A", "z", "-", "_"]) + cursor[n + 1 :]  # noqa: S311 - the same at every run
        for n in range(len(cursor))
    ]
    truncated = [cursor[:n] for n in range(1, len(cursor))]
    extended = [cursor + tail for tail in ("A", "AAAA", "==A", " ", "\n", "%00", "é", "\0")]

    for damaged in [*swapped, *truncated, *extended]:
        if damaged != cursor:
            response = client.get("/items", params={"limit": 3, "sort": sort, "cursor": damaged})
            # The last character of base64 may carry bits that mean nothing.
            if damaged[:-1] != cursor[:-1] or len(damaged) != len(cursor):
                assert_error(response, 422, "INVALID_INPUT")
            assert response.status_code in {200, 422}


FORGED = [
    '["5",0]',
    '["5",-1]',
    '["5",9223372036854775808]',
    '["5",1.0]',
    '["5",true]',
    '["5","1"]',
    '["5",null]',
    '["5"]',
    '["5",1,1]',
    "5",
    "null",
    "[]",
    "{}",
    '{"a":1,"b":2}',
    '"ab"',
    "[null,1]",
    "[[],1]",
    "[{},1]",
    "[NaN,1]",
    "[" * 3000,
    "[" * 1400 + "]" * 1400,
    "9" * 3000,
    "[" + "9" * 3000 + ",1]",
    '["NaN",1]',
    '["sNaN",1]',
    '["Infinity",1]',
    '["-Infinity",1]',
    '["1e-999999999",1]',
    '["1e400",1]',
    '["0",1]',
    '["\\u0000",1]',
    '["\\ud800",1]',
    '["0001-01-01T00:00:00+23:59",1]',
    '["9999-12-31T23:59:59-23:59",1]',
    '["2026-01-01T00:00:00",1]',
    '["2026-01-01",1]',
    '["infinity",1]',
    '["' + "x" * 2900 + '",1]',
    "\0",
    "\xff",
    "",
]


@pytest.mark.usefixtures("ties")
@pytest.mark.parametrize("sort", BOTH_WAYS)
def test_a_forged_cursor_with_a_right_digest_is_refused_or_a_position(client: TestClient, sort: str) -> None:
    """The digest is no secret: whoever reads the source can make one."""
    query = ItemQuery.model_validate({"sort": sort})
    for text in FORGED:
        payload = text.encode("latin-1")
        cursor = base64.urlsafe_b64encode(_digest(payload, query, {}) + payload).decode()

        response = client.get("/items", params={"sort": sort, "cursor": cursor})

        if response.status_code != 200:
            assert_error(response, 422, "INVALID_INPUT")


@pytest.mark.parametrize("length", [1, 12, 100, 3000, 5000, 20_000])
def test_random_bytes_are_no_cursor(client: TestClient, length: int) -> None:
    cursor = base64.urlsafe_b64encode(random.Random(length).randbytes(length)).decode()  # noqa: S311 - the same at every run

    assert_error(client.get("/items", params={"cursor": cursor}), 422, "INVALID_INPUT")


def test_the_limit_may_change_on_the_way(client: TestClient, sql: SQL) -> None:
    sql("INSERT INTO items (name, price) SELECT 'x', 1 FROM generate_series(1, 10)")
    first = client.get("/items", params={"limit": 3}).json()

    rest = client.get("/items", params={"limit": 100, "cursor": first["next_cursor"]}).json()

    assert [item["id"] for item in rest["items"]] == list(range(4, 11))


@pytest.mark.parametrize("sort", BOTH_WAYS)
def test_a_late_page_reads_its_own_rows_only(client: TestClient, sql: SQL, database_url: str, sort: str) -> None:
    """Page 10,000 costs what page 1 costs: the server takes `limit` rows and one more from an index, and drops none."""
    sql(
        "INSERT INTO items (name, price, created_at) "
        "SELECT 'n' || n / 3, 1 + n / 3, now() + n / 3 * interval '1 s' FROM generate_series(1, 3000) AS n"
    )
    sql("ANALYZE items")
    *_, cursor = (client.get(url).json()["next_cursor"] for url in _urls(client, sort, pages=25))

    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(database_url))

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute", retval=True)
    def explain(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters

    with engine.connect() as connection:
        query = ItemQuery.model_validate({"sort": sort, "limit": 100, "cursor": cursor})
        [row] = store.items.list(connection, query).items
        [[explained]] = cast("Any", row)
    engine.dispose()

    scan = explained["Plan"]["Plans"][0]
    assert scan["Node Type"] in {"Index Scan", "Index Only Scan"}
    assert scan["Actual Rows"] == 101
    assert scan.get("Rows Removed by Filter", 0) == 0


def _urls(client: TestClient, sort: str, pages: int) -> Iterator[str]:
    url = f"/items?sort={sort}&limit=100"
    for _ in range(pages):
        yield url
        url = client.get(url).links["next"]["url"]
