"""Clients that write down what they were told, and a judge who compares it with the database.

In the manner of Jepsen: each write has a name of its own. One that was acknowledged must be there exactly once; one
that was definitely refused must not be there; of the others nobody can know, but twice is wrong for them too.
"""

import asyncio
import contextlib
import enum
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.cluster import query
from tests.support.service import eventually

# ruff: noqa: S311 - a load is no secret

_PATIENCE = 60.0  # seconds for an answer
_WELL = 100
"""Answers in a row that are good: the fault is over."""
_runs = itertools.count(1)


class Outcome(enum.Enum):
    """What a client knows of a write."""

    ACKNOWLEDGED = "2xx"
    REFUSED = "it did not happen"
    UNKNOWN = "it may have happened"


@dataclass
class Write:
    """One create, however often it was sent."""

    names: tuple[str, ...]
    outcome: Outcome = Outcome.UNKNOWN
    ids: tuple[int, ...] = ()


@dataclass
class Answer:
    """One request and what came of it; `status` 0 is none."""

    at: float
    seconds: float
    status: int
    body: bytes = b""
    sent: bool = True

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    @property
    def definitely_not_done(self) -> bool:
        """Whether a write that got it is certain not to have happened.

        A 503 `DATABASE_ERROR` is not among them: the answer of a COMMIT may have been lost.
        """
        if not self.sent or 400 <= self.status < 500:
            return True
        return self.status == 503 and json.loads(self.body)["detail"]["code"] == "OVERLOADED"


@dataclass
class Verdict:
    """What the judge found; a row of the table."""

    fault: str
    sent: int
    acknowledged: int
    lost: int
    repeated: int
    failed: int
    worst: float
    recovered: float | None
    note: str = ""
    wrong: list[str] = field(default_factory=list)


class Client:
    """One keep-alive connection to one of the services in turn; it never repeats by itself."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = urls
        self._number = random.randrange(1000)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and read the answer, whatever it is."""
        began, sent = time.monotonic(), False
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._streams is None:
                    self._number += 1
                    target = urlsplit(self.urls[self._number % len(self.urls)])
                    self._streams = await asyncio.open_connection(target.hostname, target.port)
                sent = True
                status, content = await self._exchange(method, path, body, headers)
        except (OSError, EOFError, ValueError) as error:  # a timeout is an OSError
            self.close()
            return Answer(began, time.monotonic() - began, 0, repr(error).encode(), sent)
        return Answer(began, time.monotonic() - began, status, content)

    async def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        assert self._streams
        reader, writer = self._streams
        fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        kind = "Content-Type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{kind}Content-Length: {len(body)}\r\n{fields}\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(answer.partition("content-length: ")[2].partition("\r\n")[0] or "0")
        content = await reader.readexactly(length)
        if "connection: close" in answer:
            self.close()
        return int(answer.split(" ", 2)[1]), content

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.asynccontextmanager
async def clients_of(*urls: str) -> AsyncIterator[Callable[[], Client]]:
    """Give out clients, and hang up for all of them in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Client(urls)))
    await asyncio.sleep(0)  # a transport closes when the loop comes by


class History:
    """Many clients at work in a thread of their own, and what they saw.

    Parameters
    ----------
    urls
        The services; each client goes on to the next one when its connection has ended.
    clients
        How many.
    pause
        Seconds that each waits between two requests, about.
    reads, keyed, batches
        Shares of the requests: reads of what was acknowledged; of the creates, those with an idempotency key, which
        are sent again until they are answered, and those of three at once.
    """

    def __init__(
        self,
        *urls: str,
        clients: int = 12,
        pause: float = 0.01,
        reads: float = 0.4,
        keyed: float = 0.5,
        batches: float = 0.1,
    ) -> None:
        self._run = f"r{next(_runs)}x{random.getrandbits(32):08x}"
        self._urls: list[str] = list(urls)
        self._clients, self._pause = clients, pause
        self._reads, self._keyed, self._batches = reads, keyed, batches
        self._numbers = itertools.count()
        self._stopping = False
        self.answers: list[Answer] = []
        self.writes: list[Write] = []
        self._known: list[int] = []
        self.stale: list[str] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)
        self._thread.start()

    async def _all(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        client = Client(self._urls)
        with contextlib.closing(client):
            while not self._stopping:
                if self._known and random.random() < self._reads:
                    await self._read(client)
                else:
                    await self._create(client)
                await asyncio.sleep(random.uniform(0.5, 1.5) * self._pause)

    async def _ask(self, client: Client, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        answer = await client.ask(method, path, body, **headers)
        self.answers.append(answer)
        if not answer.ok:
            await asyncio.sleep(0.05)
        return answer

    async def _read(self, client: Client) -> None:
        thing_id = random.choice(self._known[-2000:])
        answer = await self._ask(client, "GET", f"/things/{thing_id}")
        if 400 <= answer.status < 500:
            self.stale.append(f"GET /things/{thing_id}: {answer.status} at {answer.at:.1f}")

    async def _create(self, client: Client) -> None:
        size = 3 if random.random() < self._batches else 1
        names = tuple(f"{self._run}n{next(self._numbers)}" for _ in range(size))
        write = Write(names)
        self.writes.append(write)
        items = [{"name": name, "price": 1} for name in names]
        path, body = ("/things", items[0]) if size == 1 else ("/things/batch", {"items": items})
        key = {"Idempotency_Key": names[0]} if random.random() < self._keyed else {}
        while True:
            answer = await self._ask(client, "POST", path, json.dumps(body).encode(), **key)
            if answer.ok:
                content = json.loads(answer.body)
                write.outcome = Outcome.ACKNOWLEDGED
                write.ids = tuple(thing["id"] for thing in content.get("items", [content]))
                self._known.extend(write.ids)
                return
            if not key:
                write.outcome = Outcome.REFUSED if answer.definitely_not_done else Outcome.UNKNOWN
                return
            if self._stopping:
                return  # sent more than once: unknown

    @contextlib.contextmanager
    def going_on(self) -> Iterator["History"]:
        """Let the clients work while the block runs."""
        try:
            yield self
        finally:
            self.stop()

    def use(self, *urls: str) -> None:
        """Send new connections to these from now on, as a load balancer does."""
        self._urls[:] = urls

    def stop(self) -> None:
        """End the clients."""
        self._stopping = True
        self._thread.join(_PATIENCE * 2)
        assert not self._thread.is_alive(), "clients that do not end"

    def wait_for(self, answers: int) -> None:
        """Wait for so many more answers, whatever they are."""
        wanted = len(self.answers) + answers
        eventually(lambda: len(self.answers) >= wanted)

    def wait_until_well(self) -> None:
        """Wait until all goes well again."""
        self.wait_for(_WELL)
        eventually(lambda: all(answer.ok for answer in self.answers[-_WELL:]), seen=self.failures)

    def acknowledged(self) -> int:
        """Count the writes that were acknowledged so far."""
        return sum(write.outcome is Outcome.ACKNOWLEDGED for write in list(self.writes))

    def failures(self) -> Counter[str]:
        """Count what else than successes there was."""
        return Counter(_kind(answer) for answer in list(self.answers) if not answer.ok)

    def first_write_after(self, moment: float) -> float | None:
        """Tell when the first request begun after `moment` was answered well, in seconds after it."""
        ends = [a.at + a.seconds - moment for a in list(self.answers) if a.status == 201 and a.at >= moment]
        return min(ends, default=None)

    def recovered(self, moment: float) -> float:
        """Tell how many seconds after `moment` the last failed request had begun."""
        return max((answer.at - moment for answer in self.answers if not answer.ok), default=0.0)

    def judge(self, fault: str, database_url: str, *, ended: float | None = None, note: str = "") -> Verdict:
        """Compare what was said with what is there; `ended` is when the fault did."""
        rows = query(
            database_url,
            "SELECT name, count(*), min(id) FROM things WHERE name LIKE %s GROUP BY name",
            (f"{self._run}%",),
        )
        there = {name: (count, thing_id) for name, count, thing_id in rows}
        lost, wrong = 0, list(self.stale)
        for write in self.writes:
            here = [name for name in write.names if name in there]
            if write.outcome is Outcome.ACKNOWLEDGED:
                lost += len(here) < len(write.names)
                if [there[name][1] for name in here] != list(write.ids)[: len(here)]:
                    wrong.append(f"{write}: other ids")
            elif write.outcome is Outcome.REFUSED and here:
                wrong.append(f"{write}: refused, but there")
            elif 0 < len(here) < len(write.names):
                wrong.append(f"{write}: half of it is there")
        return Verdict(
            fault,
            sent=len(self.answers),
            acknowledged=self.acknowledged(),
            lost=lost,
            repeated=sum(count > 1 for count, _ in there.values()),
            failed=sum(self.failures().values()),
            worst=max((answer.seconds for answer in self.answers), default=0.0),
            recovered=None if ended is None else max(0.0, self.recovered(ended)),
            note=note or ", ".join(f"{count} x {kind}" for kind, count in self.failures().most_common(3)),
            wrong=wrong,
        )


def _kind(answer: Answer) -> str:
    if answer.status == 0:
        return "cut off without an answer" if answer.sent else "connection refused"
    with contextlib.suppress(ValueError, KeyError):
        return f"{answer.status} {json.loads(answer.body)['detail']['code']}"
    return str(answer.status)
