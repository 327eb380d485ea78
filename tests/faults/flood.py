"""Clients that ask again as soon as they have an answer, whatever it says; a process of its own.

    python -m tests.faults.flood PORT CLIENTS SECONDS

Prints one JSON object: how many answers of each status after the first seconds, how many a second were good, the 99th
percentile of their seconds, and how many creates were acknowledged from the beginning to the end.
"""

import asyncio
import json
import sys
import time
from collections import Counter

_WARM_UP = 6.0
_CREATES = 4  # one request of so many is a create
_READ = b"GET /things?limit=2 HTTP/1.1\r\nHost: x\r\n\r\n"
_BODY = b'{"name": "flood", "price": 1}'
_CREATE = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


class Client(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, flood: "Flood", number: int) -> None:
        self._flood, self._number = flood, number
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._number += 1
        self._asked = time.perf_counter()
        self._transport.write(_READ if self._number % _CREATES else _CREATE)

    def data_received(self, data: bytes) -> None:
        """Count a whole answer, and ask again."""
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._flood.note(int(head[9:12]), time.perf_counter() - self._asked)
            self._answer = b""
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - its name is asyncio's
        """Count what was not answered."""
        if not self._flood.over:
            self._flood.note(0, 0.0)


class Flood:
    """All of them, and what they were told."""

    def __init__(self) -> None:
        self.counting = self.over = False
        self._statuses: Counter[int] = Counter()
        self._good: list[float] = []
        self._created = 0

    def note(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self._created += status == 201
        if self.counting:
            self._statuses[status] += 1
            if 200 <= status < 300:
                self._good.append(seconds)

    async def run(self, port: int, clients: int, seconds: float) -> dict[str, object]:
        """Send for so long."""
        loop = asyncio.get_running_loop()
        for start in range(0, clients, 100):
            numbers = range(start, min(start + 100, clients))
            await asyncio.gather(
                *(loop.create_connection(lambda n=n: Client(self, n), "127.0.0.1", port) for n in numbers)  # type: ignore[misc]
            )
        await asyncio.sleep(_WARM_UP)
        self.counting = True
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        self.counting, self.over = False, True
        took = time.perf_counter() - began
        good = sorted(self._good) or [0.0]
        return {
            "statuses": self._statuses,
            "goodput": len(self._good) / took,
            "created": self._created,
            "p99": good[int(len(good) * 0.99)],
            "worst": good[-1],
        }


if __name__ == "__main__":
    port, clients, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(Flood().run(int(port), int(clients), float(seconds)))))  # noqa: T201
