"""The service with tokens of a real OpenID provider, through two workers: scopes, rotation, and an outage."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.conftest import StartService
from tests.support.openid_provider import OpenIDProvider
from tests.support.service import Service, eventually
from tests.support.tokens import Signer, hostile_tokens

AUDIENCE = "https://items.example"
EVERY_OPERATION = [
    ("GET", "/items", 200),
    ("HEAD", "/items", 200),
    ("GET", "/items/1", 404),
    ("POST", "/items", 422),
    ("POST", "/items/batch", 422),
    ("PATCH", "/items/1", 422),
    ("DELETE", "/items/1", 404),
]


class _Provider(OpenIDProvider):
    def close(self) -> None:
        self.stop()


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[OpenIDProvider]:
    with closing(_Provider(tmp_path)) as provider:
        yield provider


@pytest.fixture
def service(provider: OpenIDProvider, start_service: StartService) -> Service:
    return start_service(AUTH_ISSUER=provider.issuer, AUTH_AUDIENCE=AUDIENCE)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_operations_need_a_token_with_their_scope(provider: OpenIDProvider, service: Service) -> None:
    service.wait_for_workers(2)
    read, write = provider.token("items:read"), provider.token("items:write")
    foreign = provider.token("items:read items:write", audience="https://orders.example")
    for method, path, allowed in EVERY_OPERATION:
        right, wrong = (read, write) if method in {"GET", "HEAD"} else (write, read)
        scope = "items:read" if right == read else "items:write"
        statuses = []
        for headers in ({}, bearer(foreign), bearer(wrong), bearer(right)):
            answer = service.client.request(method, path, headers=headers)
            statuses.append(answer.status_code)
            if answer.status_code in {401, 403}:
                assert f'scope="{scope}"' in answer.headers["WWW-Authenticate"]
        assert statuses == [401, 401, 403, allowed], (method, path)


def test_what_is_open_stays_open(service: Service) -> None:
    for path in ("/health/live", "/metrics", "/docs", "/openapi.json"):
        assert service.client.get(path).status_code == 200
    assert service.client.get("/nowhere").status_code == 404
    assert service.client.put("/items").status_code == 405


def test_a_write_is_done_and_its_caller_is_in_the_access_line(provider: OpenIDProvider, service: Service) -> None:
    token = provider.token("items:write")
    headers = {**bearer(token), "X-Trace-ID": "made-by-alice"}

    answer = service.client.post("/items", json={"name": "Lamp", "price": 1}, headers=headers)

    assert answer.status_code == 201
    [line] = eventually(lambda: service.lines_of("made-by-alice"))
    assert line["caller"] == "alice"
    assert token.split(".")[2] not in service.log.read_text()


def test_an_idempotency_key_belongs_to_its_caller(provider: OpenIDProvider, service: Service) -> None:
    made = []
    for client in ("alice", "bob", "alice", "bob"):
        answer = service.client.post(
            "/items",
            json={"name": "Lamp", "price": 1},
            headers={**bearer(provider.token("items:write", client=client)), "Idempotency-Key": "same"},
        )
        made.append((answer.status_code, answer.json()["id"], "Idempotent-Replayed" in answer.headers))

    assert made[0][0] == made[1][0] == 201
    assert made[0][1] != made[1][1], "bob was answered with alice's item"
    assert [replayed for _, _, replayed in made] == [False, False, True, True]
    assert [number for _, number, _ in made[2:]] == [made[0][1], made[1][1]]


def test_a_caller_is_not_logged_where_that_is_off(provider: OpenIDProvider, start_service: StartService) -> None:
    service = start_service(AUTH_ISSUER=provider.issuer, AUTH_AUDIENCE=AUDIENCE, LOG_CALLER="false")

    service.client.get("/items", headers={**bearer(provider.token("items:read")), "X-Trace-ID": "quiet"})

    [line] = eventually(lambda: service.lines_of("quiet"))
    assert "caller" not in line


def test_a_token_is_asked_for_before_the_body_is_read(service: Service) -> None:
    for content_type in ("application/json", "text/plain"):
        answer = service.client.post("/items", content=b"{", headers={"Content-Type": content_type})
        assert answer.status_code == 401


def test_hostile_tokens_are_401(service: Service) -> None:
    for name, token in hostile_tokens(Signer("stranger")).items():
        if not token:
            continue  # the client refuses to send it; tests/core/api/test_authentication.py does
        answer = service.client.get("/items", headers=[(b"Authorization", f"Bearer {token}".encode())])
        assert answer.status_code == 401, name
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"], name
    assert service.client.get("/items", headers=bearer("x" * 65_536)).status_code == 431


@contextmanager
def load(service: Service, tokens: list[str], threads: int = 4) -> Iterator[Counter[int]]:
    """Read with the newest of `tokens`, on several connections, and count the statuses."""
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=service.url, trust_env=False, timeout=120) as client:
            while not over.is_set():
                statuses[client.get("/items?limit=1", headers=bearer(tokens[-1])).status_code] += 1

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield statuses
    finally:
        over.set()
        for worker in workers:
            worker.join(120)


@pytest.mark.slow
def test_no_request_is_lost_while_keys_rotate(provider: OpenIDProvider, service: Service) -> None:
    service.wait_for_workers(2)
    tokens = [provider.token("items:read")]
    with load(service, tokens) as statuses:
        for _ in range(4):
            before = statuses[200]
            eventually(lambda least=before + 200: statuses[200] > least, seen=lambda: statuses)  # type: ignore[misc]
            provider.rotate()
            tokens.append(provider.token("items:read"))
            time.sleep(3)  # the pace of the rotations, not a wait for anything

    assert set(statuses) == {200}, statuses


@pytest.mark.slow
def test_an_outage_of_the_provider_costs_known_callers_nothing(
    provider: OpenIDProvider, service: Service, start_service: StartService
) -> None:
    service.wait_for_workers(2)
    tokens = [provider.token("items:read")]
    with load(service, tokens) as statuses:
        eventually(lambda: statuses[200] > 50)
        provider.stop()
        before = statuses[200]
        late = start_service(AUTH_ISSUER=provider.issuer, AUTH_AUDIENCE=AUDIENCE)
        answer = late.client.get("/items", headers=bearer(tokens[0]))
        assert (answer.status_code, answer.json()["detail"]["code"]) == (503, "AUTHENTICATION_UNAVAILABLE")
        eventually(lambda: statuses[200] > before + 200)
        provider.start()
        provider.rotate()
        tokens.append(provider.token("items:read"))
        eventually(lambda: late.client.get("/items", headers=bearer(tokens[0])).status_code == 200)
        before = statuses[200]
        eventually(lambda: statuses[200] > before + 200)

    assert set(statuses) == {200}, statuses
    ages = re.findall(r"^auth_keys_age_seconds (\S+)$", late.client.get("/metrics").text, re.MULTILINE)
    assert float(ages[0]) < 250
