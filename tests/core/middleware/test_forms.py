"""Parts of forms."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from app.core.middleware.limits.forms import form_receive

pytestmark = pytest.mark.anyio


async def test_few_parts_are_parsed_in_one_iteration_of_the_event_loop_however_many_forms_there_are() -> None:
    scope = {"headers": [(b"content-type", b"multipart/form-data; boundary=x")]}
    body = b"a" * 40_000
    parsed: Counter[int] = Counter()
    iteration = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def read() -> bytes:
        parts = b""
        message: dict[str, Any] = {"more_body": True}
        receive_part = form_receive(scope, receive)
        while message["more_body"]:
            message = dict(await receive_part())
            parsed[iteration] += 1
            parts += message["body"]
        return parts

    async def count() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        assert set(await asyncio.gather(*(read() for _ in range(100)))) == {body}
    finally:
        counting.cancel()
    assert parsed.total() == 300
    assert max(parsed.values()) <= 8, parsed.most_common(3)
