"""Parts of forms."""

import asyncio
import encodings
from collections import Counter
from typing import Any

import pytest
from starlette.testclient import TestClient

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


def test_the_names_of_unknown_character_sets_are_not_kept(client: TestClient) -> None:
    before = len(encodings._cache)
    for number in range(10):
        headers = {"Content-Type": f"multipart/form-data; boundary=x; charset=unknown-{number}"}
        assert client.post("/nowhere", content=b"x", headers=headers).status_code == 415
    assert len(encodings._cache) == before


def test_a_media_type_that_takes_long_to_read_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": 'multipart/form-data; a="' + ";" * 30_000}
    assert client.post("/nowhere", content=b"x", headers=headers).status_code == 415
    assert client.post("/nowhere", content=b"x", headers={"Content-Type": "text/" + "x" * 30_000}).status_code == 404


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii", "ISO-8859-1", "windows-1252"])
def test_the_character_sets_of_the_web_are_known(client: TestClient, charset: str) -> None:
    headers = {"Content-Type": f"application/x-www-form-urlencoded; charset={charset}"}
    assert client.post("/nowhere", content=b"x", headers=headers).status_code == 404
