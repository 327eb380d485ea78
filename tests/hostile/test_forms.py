"""Forms that are expensive to parse, or in no character set of the web."""

from collections.abc import Iterator

import pytest

from tests.hostile.ordinary import cpu_of
from tests.server.conftest import launch
from tests.support.service import Service

pytestmark = pytest.mark.slow

SIZE = 1_000_000
TEXT = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n%s\r\n--x--\r\n'
URLENCODED = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = launch(tmp_path_factory.mktemp("service"), app="tests.server.stream_app:app").wait_until_alive()
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("multipart/form-data; boundary=x; charset=punycode", TEXT % (b"a" * SIZE)),
        ("multipart/form-data; boundary=x; charset*=ascii'en'punycode", TEXT % (b"a" * SIZE)),
        ("Multipart/Form-Data; boundary=x; charset=utf-7", TEXT % b"+2AA-"),
        ("multipart/form-data; boundary=x; charset=unicode_escape", TEXT % rb"\ud800"),
        (URLENCODED, b"text=" + b"\xe9%41" * (SIZE // 4)),
        (URLENCODED, b"text=" + b"%" * SIZE),
    ],
    ids=["punycode", "extended parameter", "utf-7", "unicode_escape", "escapes", "percent signs"],
)
def test_forms_that_are_expensive_are_rejected(service: Service, media_type: str, body: bytes) -> None:
    [worker] = service.wait_for_workers(1)
    before = cpu_of(worker)
    response = service.client.post("/form", content=body, headers={"Content-Type": media_type})
    assert response.status_code in {400, 415}
    assert cpu_of(worker) - before < 0.15, "seconds"


def test_other_requests_are_served_between_the_parts_of_forms(service: Service) -> None:
    """They have no field, and each costs 0.2 s."""
    [worker] = service.wait_for_workers(1)
    head = b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    connections = [service.connect() for _ in range(16)]
    first = cpu_of(worker)
    for connection in connections:
        connection.send(head % (URLENCODED.encode(), SIZE) + b"&" * (SIZE - 1))
    before = cpu_of(worker)
    assert service.get("/health/live").status == 200
    meanwhile = cpu_of(worker) - before
    for connection in connections:
        connection.send(b"&")
        assert connection.answer().status == 422
    assert meanwhile < (cpu_of(worker) - first) / 5, "seconds before one more request was answered"


@pytest.mark.parametrize("charset", ["", "; charset=UTF-8", "; charset=iso-8859-1"])
def test_ordinary_forms_are_read(service: Service, charset: str) -> None:
    for media_type, body in [
        (f"multipart/form-data; boundary=x{charset}", TEXT % (b"a" * 100_000)),
        (URLENCODED + charset, b"text=" + b"a" * 100_000),
    ]:
        response = service.client.post("/form", content=body, headers={"Content-Type": media_type})
        assert response.json() == {"length": 100_000}
