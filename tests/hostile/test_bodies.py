"""Bodies that are made to cost time or memory."""

import json

import pytest

from tests.hostile.ordinary import in_parallel, ordinary_beside
from tests.support.http import JSON, send
from tests.support.service import Service

pytestmark = pytest.mark.slow

MAX_ERROR_BYTES = 16 * 1024
MAX_PROBLEMS = 21
CASES = {
    "112,000 unknown members": b"{" + b",".join(b'"k%d":1' % number for number in range(80_000)) + b"}",
    "7,000 unknown members": json.dumps({f"k{number}" * 12: 1 for number in range(7_000)}).encode(),
    "7,000 bad items": json.dumps({"items": [1.5] * 7_000}).encode(),
    "1,000 bad items": json.dumps({"items": [{"x": 1, "name": "", "price": -1}] * 1_000}).encode(),
    "340,000 strings": b"[" + b",".join([b'""'] * 340_000) + b"]",
    "340,000 objects": b"[" + b",".join([b"{}"] * 340_000) + b"]",
    "only quotes": b'{"name":"' + b'\\"' * 500_000 + b'"}',
    "deep": b"[" * 1_000_000,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("path", ["/things", "/things/batch"])
def test_an_error_answer_is_short(service: Service, name: str, path: str) -> None:
    for accept in ("application/json", "application/problem+json"):
        answer = send(service.port, "POST", path, JSON, ("Accept", accept), body=CASES[name])

        assert answer.status in {413, 422}
        assert len(answer.body) <= MAX_ERROR_BYTES
        detail = answer.json if accept.endswith("problem+json") else answer.json["detail"]
        assert len(detail.get("errors", [])) <= MAX_PROBLEMS


def test_what_is_left_out_is_counted(service: Service) -> None:
    answer = send(service.port, "POST", "/things", JSON, body=CASES["7,000 unknown members"])

    assert answer.json["detail"]["errors"][-1] == {"loc": [], "msg": "and 6982 more", "type": "too_many_errors"}


def test_a_long_path_makes_no_long_answer(service: Service) -> None:
    path = "/" + "%C3%A9" * 1_300
    answer = send(service.port, "GET", path, ("Accept", "application/problem+json"))

    assert answer.status == 404
    assert len(answer.body) <= MAX_ERROR_BYTES


def test_a_batch_of_a_thousand_full_items_is_taken(service: Service) -> None:
    text = 'a, [b], {"c"} ' * 40
    items = [{"name": f"Lamp{number}", "price": 19.99, "description": text} for number in range(1_000)]

    assert service.client.post("/things/batch", json={"items": items}).status_code == 201


def test_expensive_bodies_hold_up_nothing_else(service: Service) -> None:
    def attack() -> None:
        for body in list(CASES.values()) * 3:
            assert send(service.port, "POST", "/things", JSON, body=body).status in {413, 422}

    with ordinary_beside(service, growth=96):
        in_parallel(8, attack)


def test_the_largest_batches_take_turns_with_their_memory(service: Service) -> None:
    items = [{"name": f"Lamp{number}", "price": 19.99, "description": "d" * 940} for number in range(1_000)]
    body = json.dumps({"items": items}).encode()

    statuses: list[int] = []

    def attack() -> None:
        statuses.extend(send(service.port, "POST", "/things/batch", JSON, body=body).status for _ in range(2))

    with ordinary_beside(service, growth=60):  # each takes 15 MiB while it is processed
        in_parallel(24, attack)
    assert set(statuses) <= {201, 503}
    assert 201 in statuses
