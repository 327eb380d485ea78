"""The turns in which input is parsed."""

import asyncio

from app.server.protocol.parsing import ParseQueue


class Connection:
    """A connection with so many turns' worth of input, which writes down its name at each turn."""

    turns = 0.0

    def __init__(self, queue: ParseQueue, name: str, seen: list[str], *pieces: float) -> None:
        self._queue, self._name, self._seen, self._pieces = queue, name, seen, list(pieces)

    def send(self, *pieces: float) -> None:
        """Have more input."""
        self._pieces += pieces
        self._queue.add(self)

    def parse_piece(self) -> None:
        """Take a turn."""
        self._seen.append(self._name)
        self.turns += self._pieces.pop(0)
        if self._pieces:
            self._queue.add(self)


async def turns_until(seen: list[str], name: str) -> int:
    """Return how many turns others had, from now to the next one of `name`."""
    before = len(seen)
    while name not in seen[before:]:  # noqa: ASYNC110 - iterations are waited for, not an event
        await asyncio.sleep(0)
    return seen.index(name, before) - before


def test_who_sends_little_does_not_wait_for_all_that_send_much() -> None:
    async def run() -> list[int]:
        queue, seen = ParseQueue(), list[str]()
        for number in range(200):
            Connection(queue, f"much {number}", seen, *[1.0] * 100).send()
        ordinary = Connection(queue, "little", seen)
        waited = []
        for _ in range(20):
            await asyncio.sleep(0)
            ordinary.send(0.03)
            waited.append(await turns_until(seen, "little"))
        return waited[1:]  # in the first round nobody had sent more than the others

    assert max(asyncio.run(run())) < 20  # one iteration of the event loop has 16


def test_who_always_sends_much_has_as_many_turns_as_the_others() -> None:
    async def run() -> list[str]:
        queue, seen = ParseQueue(), list[str]()
        for number in range(4):
            Connection(queue, f"early {number}", seen, *[1.0] * 50).send()
        await turns_until(seen, "early 3")
        for number in range(4):
            Connection(queue, f"late {number}", seen, *[0.5] * 100).send()
        while len(seen) < 200:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0)
        return seen[-120:]

    seen = asyncio.run(run())
    assert 30 <= sum(name.startswith("early") for name in seen) <= 50, seen
