"""Let concurrent calls share one call of a function.

A single call is made at once. Under load, the calls that arrive while others are in flight are sent together, so one
statement, one round trip and one commit serve many requests.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Generic, TypeVar

from app.core.observability.trace_id import follow_trace

Q = TypeVar("Q")
A = TypeVar("A")


_ITERATIONS = 4
"""Iterations of the event loop, some microseconds each, for which a batch waits if one of the last two was shared.
Requests that the kernel has received are parsed in the first, and join in the next ones (docs/performance.md: a third
less CPU time for each request)."""


class NotShared(Exception):
    """The answer to a question that is to be asked by itself, since it would hold up the others."""


class Batcher(Generic[Q, A]):
    """Turns a function of many questions into one of a single question, in the event loop in which it is made.

    Parameters
    ----------
    ask
        Answers many questions at once, in their order. An answer that is an exception is raised for its
        question alone; an exception of `ask` itself is raised for all.
    max_batch
        How many questions may go out together.
    max_in_flight
        How many calls of `ask` may run at the same time.

    Notes
    -----
    A call of `ask` begins after all of its questions have arrived: an answer is never older than its question. A
    cancelled caller does not affect others: its question is dropped, or its answer if the question was sent.
    """

    def __init__(
        self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]], *, max_batch: int, max_in_flight: int
    ) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()  # kept: before Python 3.12 each call is a system call
        self._max_batch = max_batch
        self._free = max_in_flight
        self._busy = self._before = False
        self._waiting: deque[tuple[Q, asyncio.Future[A], float, Context]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, question: Q) -> A:
        """Ask, alone or together with others."""
        future: asyncio.Future[A] = self._loop.create_future()
        self._waiting.append((question, future, time.monotonic(), copy_context()))
        if self._free:
            self._free -= 1
            # In a context of its own: context variables of one caller are not for the others.
            task = self._loop.create_task(self._serve(), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _serve(self) -> None:
        """Ask until no call waits."""
        try:
            while self._waiting:
                if self._busy:
                    for _ in range(_ITERATIONS):
                        await asyncio.sleep(0)
                batch = self._next_batch()
                many = len(batch) > 1
                self._busy, self._before = many or self._before, many
                await self._answer(batch)
        finally:
            self._free += 1

    def _next_batch(self) -> list[tuple[Q, asyncio.Future[A]]]:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(batch) < self._max_batch:
            question, future, _, context = self._waiting.popleft()
            if not future.done():  # otherwise its caller was cancelled
                if not batch:
                    follow_trace(context)  # log lines and spans of the batch have the trace id of its first
                batch.append((question, future))
        return batch

    def expire(self, seconds: float, error: Exception) -> None:
        """Raise `error` for the calls that have waited for more than `seconds`."""
        before = time.monotonic() - seconds
        while self._waiting and self._waiting[0][2] < before:
            _, future, _, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)

    async def _answer(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        if not batch:  # all callers were cancelled
            return
        try:
            answers: Sequence[A | Exception] = await self._ask([question for question, _ in batch])
            if len(answers) != len(batch):
                raise TypeError(f"{len(answers)} answers to {len(batch)} questions")
        except Exception as error:  # noqa: BLE001 - every caller gets it
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
