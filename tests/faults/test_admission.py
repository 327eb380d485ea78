"""More than can be done: what is refused, what passes, and what is not done for those who have gone."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx2
import pytest

from tests.faults.conftest import StartService
from tests.faults.history import Answer, Client, clients_of
from tests.faults.postgresql import PostgreSQL
from tests.support.cluster import connected, query
from tests.support.errors import assert_error

pytestmark = pytest.mark.slow

T = TypeVar("T")
NewClient = Callable[[], Client]
# As `app.main` has them at the default DB_POOL_SIZE.
LIMIT = 256
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
def stuck(database: str, start: StartService) -> "Stuck":
    """Run a service of one worker whose database makes no progress."""
    service = start.launch(database, WEB_CONCURRENCY="1", DB_STATEMENT_TIMEOUT="0", DB_POOL_TIMEOUT="60")
    return Stuck(service.url, database)


class Stuck:
    """A service whose reads wait for a lock."""

    def __init__(self, url: str, database: str) -> None:
        self.url, self.database = url, database


def play(scene: Callable[[NewClient], Awaitable[T]], url: str) -> T:
    """Run a scene, and hang up for every client in it."""

    async def whole() -> T:
        async with clients_of(url) as new:
            return await scene(new)

    return asyncio.run(whole())


async def in_progress(new: NewClient, number: int) -> None:
    """Wait until the service has so many requests in progress, beside the one that asks for that."""
    wanted = f"http_requests_in_progress {number + 1}.0".encode()
    async with asyncio.timeout(120):
        while wanted not in (await new().ask("GET", "/metrics")).body:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


def test_what_is_too_much_is_refused_at_once_and_probes_pass(stuck: Stuck) -> None:
    async def scene(new: NewClient) -> None:
        with connected(stuck.database) as other, other.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE")
            waiting = [asyncio.create_task(new().ask("GET", "/things/1")) for _ in range(LIMIT)]
            await in_progress(new, LIMIT)
            client = new()
            for method, path, body in (
                ("GET", "/things/1", b""),
                ("GET", "/things", b""),
                ("POST", "/things", b"{}"),
                ("POST", "/things/batch", b"{}"),
                ("DELETE", "/things/1", b""),
                ("GET", "/nowhere", b""),
            ):
                answer = await client.ask(method, path, body)
                assert answer.status == 503
                assert json.loads(answer.body)["detail"]["code"] == "OVERLOADED"
            for path in ("/health/live", "/health/ready", "/metrics"):
                answer = await new().ask("GET", path)
                assert answer.status == 200, "while everything else waits for the lock"
            with ThreadPoolExecutor(1) as pool:
                await asyncio.get_running_loop().run_in_executor(pool, _check_refusal, stuck.url)
            cursor.execute("ROLLBACK")
            answers = await asyncio.gather(*waiting)
            assert {answer.status for answer in answers} == {404}
            assert (await new().ask("GET", "/things/1")).status == 404

    play(scene, stuck.url)


def _check_refusal(url: str) -> None:
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
        answer = client.get("/things/7", headers={"X-Trace-ID": "abc"})
        assert_error(answer, 503, "OVERLOADED")
        assert answer.headers["X-Trace-ID"] == "abc"
        problem = client.get("/things/7", headers={"Accept": "application/problem+json"})
        assert (problem.status_code, problem.json()["code"]) == (503, "OVERLOADED")
        assert problem.headers["Retry-After"]
        assert client.head("/things/7").content == b""
        metrics = client.get("/metrics").text
        assert 'http_requests_total{method="GET",path="/things/{thing_id}",status="503"}' in metrics


def test_nothing_is_done_for_a_client_that_has_gone_before_its_turn(stuck: Stuck, postgresql: PostgreSQL) -> None:
    def send(client: Client, number: int) -> asyncio.Task[Answer]:
        body = json.dumps({"name": f"gone{number}", "price": 1}).encode()
        # Alone (a batch waits for a connection) and together (a create waits for its statement).
        kind = ("/things/batch", b'{"items":[%s]}' % body) if number % 2 else ("/things", body)
        return asyncio.create_task(client.ask("POST", *kind))

    async def scene(new: NewClient) -> None:
        with connected(stuck.database) as other, other.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE")
            first = []
            for _ in range(2):  # as many creates as can be under way at once
                first.append(asyncio.create_task(new().ask("POST", "/things", b'{"name": "stays", "price": 1}')))
                while query(stuck.database, WAITING) != [(len(first),)]:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)
            # Pages of more than 20 rows do not share a statement.
            lists = [asyncio.create_task(new().ask("GET", "/things?limit=100")) for _ in range(12)]
            deletes = [asyncio.create_task(new().ask("DELETE", f"/things/{number}")) for number in range(1, 13)]
            await in_progress(new, 26)
            leaving = [(client, send(client, number)) for number, client in enumerate(new() for _ in range(40))]
            await in_progress(new, 66)
            for client, request in leaving:
                client.close()
                request.cancel()
            await in_progress(new, 26)
            cursor.execute("ROLLBACK")
            assert {(await one).status for one in first} == {201}
            assert {(await one).status for one in lists} == {200}
            assert {(await one).status for one in deletes} == {404}
            await in_progress(new, 0)

    play(scene, stuck.url)
    assert query(postgresql.url, "SELECT name FROM things") == [("stays",), ("stays",)]
    assert 'status="499"' in httpx2.get(f"{stuck.url}/metrics", trust_env=False, timeout=60).text


def test_slow_bodies_take_no_place_from_others(stuck: Stuck) -> None:
    async def scene(new: NewClient) -> None:
        head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        streams = [await asyncio.open_connection("127.0.0.1", int(stuck.url.rpartition(":")[2])) for _ in range(300)]
        for _, writer in streams:
            writer.write(head)
        await asyncio.sleep(1)
        answer = await new().ask("POST", "/things", b'{"name": "x", "price": 1}')
        assert answer.status == 201
        for _, writer in streams:
            writer.close()

    play(scene, stuck.url)


def test_two_thousand_requests_of_two_hundred_clients_see_no_5xx(database: str, start: StartService) -> None:
    service = start(database, DB_POOL_TIMEOUT="60", DB_STATEMENT_TIMEOUT="60")

    async def ask(client: Client, number: int) -> list[int]:
        statuses = []
        for n in range(10):
            body = json.dumps({"name": f"c{number}n{n}", "price": 1}).encode()
            answer = await (client.ask("POST", "/things", body) if n % 2 else client.ask("GET", "/things?limit=5"))
            statuses.append(answer.status)
        return statuses

    async def scene(new: NewClient) -> set[int]:
        answered = await asyncio.gather(*(ask(new(), number) for number in range(200)))
        return {status for statuses in answered for status in statuses}

    assert play(scene, service.url) == {200, 201}
