"""Exactly once, no lost update, whole walks: many clients at the same time, while workers die."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psycopg2
import pytest
from starlette.testclient import TestClient

from tests.conftest import SQL, MakeClient, StartService
from tests.contract.retries import a_worker_dies_every_second, send_until_answered
from tests.support.errors import assert_error
from tests.support.service import Service, eventually

CLIENTS, KEYS, SENDS, DEATHS = 64, 50, 20, 2
LAMP = {"name": "Lamp", "price": 19.99}
BODIES: dict[str, dict[str, Any]] = {
    "/items": LAMP,
    "/items/batch": {"items": [LAMP, {"name": "Desk", "price": 100}, LAMP]},
}


@pytest.fixture
def running(start_service: StartService) -> Service:
    """Run the service with two workers on the test's database."""
    service = start_service()
    service.wait_for_workers(2)
    return service


async def send_all(url: str, path: str, killed: list[int]) -> dict[str, list[httpx2.Response]]:
    """Send every key many times, in any order, and again and again until enough workers have died."""
    orders = [f"key-{number}" for number in range(KEYS)] * SENDS
    random.Random(1).shuffle(orders)  # noqa: S311 - the same at every run
    answers: dict[str, list[httpx2.Response]] = {key: [] for key in orders}
    limits = httpx2.Limits(max_connections=CLIENTS)
    deadline = time.monotonic() + 300
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:

        async def one_client(orders: list[str]) -> None:
            for turn, key in enumerate(itertools.cycle(orders)):
                if turn >= len(orders) and len(killed) >= DEATHS:
                    return
                answers[key].append(await send_until_answered(client, path, BODIES[path], key, deadline))
                await asyncio.sleep(0.1)  # so that some workers die meanwhile

        await asyncio.gather(*(one_client(orders[number::CLIENTS]) for number in range(CLIENTS)))
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_each_key_happens_once_while_workers_die(running: Service, sql: SQL, path: str) -> None:
    with a_worker_dies_every_second(running) as killed:
        answers = asyncio.run(send_all(running.url, path, killed))

    assert len(killed) >= DEATHS
    rows = {item["id"] for received in answers.values() for item in items_of(received)}
    assert sql("SELECT count(*) FROM items") == [(KEYS * len(BODIES[path].get("items", [LAMP])),)]
    assert sorted(rows) == [item_id for (item_id,) in sql("SELECT id FROM items ORDER BY id")]
    for received in answers.values():
        assert len(received) >= SENDS
        created = [answer for answer in received if answer.status_code == 201]
        assert created
        assert len({answer.content for answer in created}) == 1
        assert len({(answer.headers.get("etag"), answer.headers.get("location")) for answer in created}) == 1
        # The first answer may have died with its worker; it is never given twice.
        assert sum("idempotent-replayed" not in answer.headers for answer in created) <= 1
        for answer in received:
            if answer.status_code != 201:
                assert_error(answer, 409, "IDEMPOTENCY_KEY_IN_USE")


def items_of(received: list[httpx2.Response]) -> list[dict[str, Any]]:
    """List what a key made, as each answer has it."""
    bodies = [answer.json() for answer in received if answer.status_code == 201]
    return [item for body in bodies for item in body.get("items", [body])]


def post(client: TestClient, path: str, body: Any, key: str = "k") -> httpx2.Response:
    """Post with a key."""
    response: httpx2.Response = client.post(path, json=body, headers={"Idempotency-Key": key})
    return response


@pytest.mark.parametrize("path", BODIES)
def test_a_key_belongs_to_its_request(client: TestClient, sql: SQL, path: str) -> None:
    other = next(iter(BODIES.keys() - {path}))
    first = post(client, path, BODIES[path])
    before = sql("SELECT * FROM items ORDER BY id")

    replay = post(client, path, dict(reversed(BODIES[path].items())))  # the meaning counts, not the order
    assert (replay.status_code, replay.content) == (201, first.content)
    assert replay.headers["idempotent-replayed"] == "true"
    another = {**LAMP, "price": 20} if path == "/items" else {"items": [LAMP]}
    assert_error(post(client, path, another), 422, "IDEMPOTENCY_KEY_REUSED")
    assert_error(post(client, other, BODIES[other]), 422, "IDEMPOTENCY_KEY_REUSED")
    assert_error(post(client, path, {}), 422, "INVALID_INPUT")
    assert sql("SELECT * FROM items ORDER BY id") == before


@pytest.mark.parametrize("path", BODIES)
def test_the_first_answer_comes_again_whatever_became_of_the_rows(client: TestClient, sql: SQL, path: str) -> None:
    first = post(client, path, BODIES[path])
    sql("UPDATE items SET name = 'Changed', version = version + 1")
    assert post(client, path, BODIES[path]).content == first.content
    sql("DELETE FROM items")

    replay = post(client, path, BODIES[path])

    assert replay.content == first.content
    assert replay.headers.get("etag") == first.headers.get("etag")
    assert sql("SELECT count(*) FROM items") == [(0,)]


@pytest.mark.parametrize("path", BODIES)
def test_a_refused_request_uses_up_no_key(client: TestClient, sql: SQL, path: str) -> None:
    bad = {"name": "Lamp", "price": -1} if path == "/items" else {"items": [LAMP, {"name": "Lamp", "price": -1}]}
    assert_error(post(client, path, bad), 422, "INVALID_INPUT")
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]

    assert post(client, path, BODIES[path]).status_code == 201


def test_an_expired_key_is_free_again(client: TestClient, sql: SQL) -> None:
    first = post(client, "/items", LAMP)
    sql("UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes'")
    assert post(client, "/items", LAMP).content == first.content
    sql("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'")

    second = post(client, "/items", {**LAMP, "price": 20})

    assert second.status_code == 201
    assert "idempotent-replayed" not in second.headers
    assert second.json()["id"] != first.json()["id"]
    assert post(client, "/items", {**LAMP, "price": 20}).content == second.content
    assert_error(post(client, "/items", LAMP), 422, "IDEMPOTENCY_KEY_REUSED")


def all_at_once(number: int, work: Any) -> list[Any]:
    """Call `work(n)` in so many threads, at the same moment."""
    barrier = threading.Barrier(number)

    def wait_and_work(n: int) -> Any:
        barrier.wait(60)
        return work(n)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(wait_and_work, range(number)))


@pytest.mark.slow
def test_of_concurrent_patches_with_one_entity_tag_one_wins(running: Service) -> None:
    url, tag = f"{running.url}/items/1", running.client.post("/items", json=LAMP).headers["etag"]
    for _ in range(10):

        def change(n: int, condition: str = tag) -> httpx2.Response:
            headers = {"If-Match": condition}
            return httpx2.patch(url, json={"price": n + 1}, headers=headers, timeout=60, trust_env=False)

        answers = all_at_once(16, change)
        won = [answer for answer in answers if answer.status_code == 200]
        assert len(won) == 1
        for answer in answers:
            if answer is not won[0]:
                assert_error(answer, 412, "PRECONDITION_FAILED")
        now = running.client.get(url)
        assert (now.content, now.headers["etag"]) == (won[0].content, won[0].headers["etag"])
        assert now.headers["etag"] != tag
        tag = now.headers["etag"]


@pytest.mark.slow
def test_a_patch_and_a_delete_with_one_entity_tag_exclude_each_other(running: Service, sql: SQL) -> None:
    for _ in range(10):
        created = running.client.post("/items", json=LAMP)
        url, condition = f"{running.url}{created.headers['location']}", {"If-Match": created.headers["etag"]}

        def change(n: int, url: str = url, condition: dict[str, str] = condition) -> httpx2.Response:
            method, body = ("DELETE", None) if n % 2 else ("PATCH", {"price": n + 1})
            return httpx2.request(method, url, json=body, headers=condition, timeout=60, trust_env=False)

        answers = all_at_once(8, change)
        won = [answer for answer in answers if answer.is_success]
        assert len(won) == 1
        left = sql("SELECT price FROM items WHERE id = %s", (created.json()["id"],))
        assert len(left) == (0 if won[0].status_code == 204 else 1)
        assert {answer.status_code for answer in answers} <= {200, 204, 404, 412}


@pytest.mark.parametrize("sort", ["id", "-name", "price", "-created_at"])
def test_a_walk_of_10_000_items_neither_skips_nor_repeats(running: Service, sql: SQL, sort: str) -> None:
    sql(
        "INSERT INTO items (name, price) SELECT 'stays' || n %% 500, 1 + n %% 200 FROM generate_series(1, %s) AS n",
        (10_000,),
    )
    done = threading.Event()
    changes = 0

    def disturb() -> None:
        nonlocal changes
        generator = random.Random(sort)  # noqa: S311 - the same at every run
        while not done.is_set():
            items = [
                {"name": f"stays{generator.randint(0, 999)}", "price": generator.randint(1, 200)} for _ in range(20)
            ]
            made = httpx2.post(f"{running.url}/items/batch", json={"items": items}, timeout=60, trust_env=False).json()
            for item in generator.sample(made["items"], 15):
                httpx2.delete(f"{running.url}/items/{item['id']}", timeout=60, trust_env=False)
            changes += 1

    walked: list[int] = []
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        eventually(lambda: changes)
        url: str | None = f"{running.url}/items?limit=100&sort={sort}"
        while url is not None:
            page = running.client.get(url)
            assert page.status_code == 200
            walked += [item["id"] for item in page.json()["items"]]
            url = page.links.get("next", {}).get("url")
            assert len(walked) < 100_000
    finally:
        done.set()
        thread.join(120)

    assert len(walked) == len(set(walked))
    assert set(range(1, 10_001)) <= set(walked)


@pytest.fixture
def unique_names(sql: SQL) -> Iterator[None]:
    """Give items a second unique column for as long as the test runs."""
    sql("CREATE UNIQUE INDEX unique_name ON items (name)")
    yield
    sql("DROP INDEX unique_name")


@pytest.mark.usefixtures("unique_names")
def test_a_repeated_create_of_what_is_unique_is_answered_again(client: TestClient) -> None:
    first, second = (client.post("/items", json=LAMP, headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert (first.status_code, second.status_code, second.json()) == (201, 201, first.json())
    assert second.headers["Idempotent-Replayed"] == "true"
    assert_error(client.post("/items", json=LAMP, headers={"Idempotency-Key": "two"}), 409, "CONFLICT")
    reused = client.post("/items", json={**LAMP, "price": 1}, headers={"Idempotency-Key": "one"})
    assert_error(reused, 422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.usefixtures("unique_names")
def test_only_a_key_that_is_held_is_in_use(make_client: MakeClient, database_url: str) -> None:
    client = make_client(db_statement_timeout=3)
    with psycopg2.connect(database_url) as other, other.cursor() as cursor:
        cursor.execute("INSERT INTO items (name, price) VALUES ('Lamp', 1)")
        assert_error(client.post("/items", json=LAMP, headers={"Idempotency-Key": "new"}), 503, "DATABASE_ERROR")
        other.rollback()
        cursor.execute("INSERT INTO idempotency_keys (key, fingerprint, rows) VALUES ('held', '', '[]')")
        held = client.post("/items", json=LAMP, headers={"Idempotency-Key": "held"})
        assert_error(held, 409, "IDEMPOTENCY_KEY_IN_USE")
        other.rollback()
    other.close()
    assert client.post("/items", json=LAMP, headers={"Idempotency-Key": "held"}).status_code == 201
