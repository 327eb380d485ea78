"""A transaction of several tables with a key happens once, whichever worker dies in the middle of it."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import psycopg2
import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from tests.contract.retries import a_worker_dies_every_second, send_until_answered
from tests.support.cluster import query
from tests.support.errors import assert_error
from tests.support.service import Service

CLIENTS, DEATHS, DEADLINE = 16, 3, 120.0
START = {1: 60, 2: 45, 3: 1000}
# More than there is of items 1 and 2, in any order of the lines.
ORDERS: dict[str, dict[str, Any]] = {
    f"order-{number}": {
        "lines": [{"item_id": item_id, "quantity": 1 + number % 3} for item_id in ((1, 3), (3, 2), (2, 1))[number % 3]]
    }
    for number in range(60)
}
Answers = dict[str, list[httpx2.Response]]


@pytest.fixture
def database(own_database_url: str) -> str:
    """Make the tables, and fill the stock."""
    from tests.contract.sales_app import Sale, SaleLine, Stock  # noqa: PLC0415 - it makes an app when it is imported

    with closing(psycopg2.connect(own_database_url)) as connection, connection, connection.cursor() as cursor:
        for model in (Stock, Sale, SaleLine):
            cursor.execute(str(CreateTable(model.__table__).compile(dialect=postgresql.dialect())))  # type: ignore[arg-type, no-untyped-call]
        cursor.executemany("INSERT INTO stock VALUES (%s, %s)", list(START.items()))
    return own_database_url


@pytest.fixture
def service(database: str, tmp_path: Path) -> Iterator[Service]:
    """Run two workers."""
    variables = {"DATABASE_URL": database, "WEB_CONCURRENCY": "2", "DRAIN_SECONDS": "0", "SHUTDOWN_TIMEOUT": "5"}
    service = Service(tmp_path, variables, app="tests.contract.sales_app:app")
    try:
        service.wait_until_alive().wait_for_workers(2)
        yield service
    finally:
        service.stop()


async def buy(url: str, killed: list[int]) -> Answers:
    """Send every order again and again, until enough workers have died."""
    answers: Answers = defaultdict(list)
    deadline = time.monotonic() + DEADLINE
    async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:

        async def one_client(number: int) -> None:
            mine = random.Random(number).sample(list(ORDERS), len(ORDERS))  # noqa: S311 - the same at every run
            for turn in range(10**6):
                if turn >= len(mine) and len(killed) >= DEATHS:
                    return
                assert time.monotonic() < deadline, f"only {len(killed)} workers died"
                key = mine[turn % len(mine)]
                answers[key].append(await send_until_answered(client, "/sales", ORDERS[key], key, deadline))

        await asyncio.gather(*map(one_client, range(CLIENTS)))
    return answers


def sold(database: str) -> dict[int, int]:
    """Count what was sold of each item."""
    return dict(query(database, "SELECT item_id, sum(quantity)::int FROM sale_lines GROUP BY item_id"))


@pytest.mark.slow
def test_each_order_is_placed_once_while_workers_die(service: Service, database: str) -> None:
    with a_worker_dies_every_second(service) as killed:
        answers = asyncio.run(buy(service.url, killed))

    assert len(killed) >= DEATHS
    service.wait_for_workers(2)
    left = dict(query(database, "SELECT item_id, quantity FROM stock"))
    assert min(left.values()) >= 0
    assert left == {item_id: START[item_id] - sold(database).get(item_id, 0) for item_id in START}
    assert min(left[1], left[2]) < 3, "the stock was not exhausted"

    placed = {}
    for key, received in answers.items():
        bodies = {answer.content for answer in received if answer.status_code == 201}
        assert len(bodies) <= 1, (key, bodies)
        for answer in received:
            if answer.status_code not in {201, 503}:
                assert answer.status_code == 409, answer.text
                assert answer.json()["detail"]["code"] in {"OUT_OF_STOCK", "IDEMPOTENCY_KEY_IN_USE"}
        again = service.client.post("/sales", json=ORDERS[key], headers={"Idempotency-Key": key})
        if bodies:
            assert (again.status_code, {again.content}) == (201, bodies)
            assert again.headers["Idempotent-Replayed"] == "true"
            placed[key] = again.json()
        else:
            assert_error(again, 409, "OUT_OF_STOCK")
    assert placed
    in_database = query(database, "SELECT id FROM sales ORDER BY id")
    assert [(sale["id"],) for sale in sorted(placed.values(), key=lambda sale: sale["id"])] == in_database
    stored = query(database, "SELECT key, rows FROM idempotency_keys WHERE caller = '' AND key LIKE 'order-%%'")
    assert dict(stored) == placed
