"""Clients that try again, and workers that die meanwhile."""

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.support.service import Service


@contextmanager
def a_worker_dies_every_second(service: Service) -> Iterator[list[int]]:
    """Kill them with -9, for as long as this lasts, but never the last one that serves; yields who died."""
    done, killed = threading.Event(), []

    def kill() -> None:
        while not done.wait(1):
            killed.append(random.choice(service.wait_for_workers(2)))  # noqa: S311 - any will do
            os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join(240)


async def send_until_answered(
    client: httpx2.AsyncClient, path: str, body: Any, key: str, deadline: float
) -> httpx2.Response:
    """Do what a client does that must not lose an order: try again until there is an answer."""
    while True:
        try:
            return await client.post(path, json=body, headers={"Idempotency-Key": key})
        except httpx2.TransportError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
