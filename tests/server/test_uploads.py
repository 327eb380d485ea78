"""Uploads that are larger than other bodies may be, on a route that allows it."""

import json
import time

import pytest

from tests.server.conftest import Start
from tests.support.service import Service

pytestmark = pytest.mark.slow

APP = "tests.server.stream_app:app"
SIZE, PARTS = 400_000, 20
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="large"\r\n\r\n'
FORM = HEAD + bytes(SIZE) + b"\r\n--x--\r\n"


def upload(service: Service, pause: float) -> tuple[int, bytes]:
    """Send a form in parts, `pause` seconds after each other."""
    connection = service.connect()
    connection.send(
        b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n" % len(FORM)
    )
    step = -(-len(FORM) // PARTS)
    for start in range(0, len(FORM), step):
        connection.send(FORM[start : start + step])
        time.sleep(pause)
    answer = connection.answer()
    return answer.status, answer.body


def test_an_upload_that_is_slow_but_steady_succeeds(start: Start) -> None:
    service = start(app=APP, MAX_BODY_BYTES=100_000, TEST_BODY_SECONDS=3, DRAIN_SECONDS=0)
    began = time.monotonic()
    status, body = upload(service, pause=0.25)
    assert (status, json.loads(body)) == (200, {"size": SIZE})
    assert time.monotonic() - began > 4, "it took no longer than BODY_SECONDS and a second for a check"
    larger = service.connect()
    larger.send(b"POST /background HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(FORM))
    assert larger.answer().status == 413


def test_an_upload_that_cannot_be_stored_is_not_the_client_s_fault(start: Start) -> None:
    service = start(app=APP, MAX_BODY_BYTES=100_000, TEST_TEMPORARY_FOLDER="/nonexistent")
    form = HEAD + bytes(2_000_000) + b"\r\n--x--\r\n"  # Starlette keeps files of up to 1 MiB in memory
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = service.client.post("/upload", content=form, headers=headers)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["detail"]["code"] == "OVERLOADED"
    lines = service.logged(response.headers["x-trace-id"])
    assert [line["message"] for line in lines if line["level"] == "ERROR"] == ["an uploaded file could not be stored"]
