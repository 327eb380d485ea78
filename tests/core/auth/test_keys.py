"""The issuer's keys: where they are read, when they are read again, and what an outage or a flood does."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.core.auth import keys as module
from app.core.auth.failures import AuthFailure, Reason
from app.core.auth.jwks import ALGORITHMS
from app.core.auth.key_source import FileSource, IssuerSource, Source, SourceError
from app.core.auth.keys import EXTRA_READS, Keys
from tests.support.downstream import Answer, Stub, drip, hang, json_reply, raw, reply, stub_service
from tests.support.tokens import Signer

pytestmark = pytest.mark.anyio

OLD, NEW = Signer("old"), Signer("new")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_service() as stub:
        stub.answer(jwks(OLD))
        yield stub


def jwks(*signers: Signer) -> Answer:
    return json_reply({"keys": [signer.jwk for signer in signers]})


def source_of(stub: Stub) -> Source:
    return IssuerSource("https://id.example", f"{stub.url}/keys")


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of the code under test, which sets no event
            await asyncio.sleep(0.01)


async def refused(keys: Keys, kid: str, algorithm: str = "RS256") -> Reason:
    with pytest.raises(AuthFailure) as failed:
        await keys.find(kid, algorithm)
    return failed.value.reason


async def test_a_known_key_is_found_without_asking_the_issuer(stub: Stub) -> None:
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        for _ in range(100):
            assert (await keys.find("old", "RS256")).key_id == "old"

    assert stub.tries == 1


async def test_a_new_key_is_found_at_once_by_all_that_need_it(stub: Stub) -> None:
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        generation = keys.generation
        stub.answer(jwks(OLD, NEW))
        found = await asyncio.gather(*(keys.find("new", "RS256") for _ in range(100)))

        assert {key.key_id for key in found} == {"new"}
        assert stub.tries == 1
        assert keys.generation > generation


async def test_a_key_that_is_withdrawn_is_known_no_more(stub: Stub) -> None:
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        stub.answer(jwks(NEW))
        await keys.find("new", "RS256")

        assert await refused(keys, "old") is Reason.UNKNOWN_KEY


async def test_made_up_key_ids_do_not_reach_the_issuer(stub: Stub) -> None:
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        started = asyncio.get_running_loop().time()
        stub.received.clear()
        for number in range(2000):
            assert await refused(keys, f"made-up-{number}") is Reason.UNKNOWN_KEY

        seconds = asyncio.get_running_loop().time() - started
        assert stub.tries <= EXTRA_READS + seconds / module.EXTRA_READ_SECONDS + 1
        assert keys._waiting == 0


async def test_requests_that_wait_for_a_read_are_limited(stub: Stub) -> None:
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        stub.answer(hang)
        waiting = [asyncio.create_task(keys.find("new", "RS256")) for _ in range(module._MAX_WAITING)]
        await asyncio.sleep(0)

        assert await refused(keys, "new") is Reason.KEYS_UNAVAILABLE
        assert (await keys.find("old", "RS256")).key_id == "old"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert keys._waiting == 0


class Gated:
    """A source whose first read succeeds, whose second one fails when it is told to, and whose third one hangs."""

    def __init__(self) -> None:
        self.reads = 0
        self.fail = asyncio.Event()

    async def read(self) -> Any:
        """Read."""
        self.reads += 1
        if self.reads == 1:
            return {"keys": [OLD.jwk]}
        if self.reads == 3:
            await asyncio.Event().wait()
        await self.fail.wait()
        raise SourceError("failed")

    async def close(self) -> None:
        """Do nothing."""


async def test_a_request_does_not_wait_for_two_reads_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT", 2.0)
    source, loop = Gated(), asyncio.get_running_loop()
    keys = Keys(source, ALGORITHMS)
    async with keys.refreshed():
        waiting = asyncio.create_task(refused(keys, "new"))
        await asyncio.sleep(1)
        source.fail.set()
        failed_at = loop.time()

        assert await waiting is Reason.UNKNOWN_KEY
        assert source.reads == 3
        assert loop.time() - failed_at < module._WAIT


@pytest.mark.parametrize(
    "broken",
    [
        reply(500),
        reply(302, location="http://127.0.0.1:1/"),
        reply(200, b"<html>"),
        reply(200, b"[" * 100_000),
        json_reply({"keys": []}),
        reply(200, b" " * 300_000),
        raw(b"no HTTP\r\n\r\n"),
    ],
    ids=["500", "redirect", "html", "deep", "no keys", "large", "no HTTP"],
)
async def test_keys_stay_while_the_issuer_is_broken(
    stub: Stub, broken: Answer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        stub.answer(broken)
        assert await refused(keys, "new") is Reason.UNKNOWN_KEY
        assert (await keys.find("old", "RS256")).key_id == "old"
        assert [r.levelname for r in caplog.records if "cannot be read" in r.message] == ["WARNING"]

        stub.answer(jwks(OLD, NEW))
        await until(lambda: ("new", "RS256") in keys._keys)
        assert keys._failure is None


async def test_without_keys_there_is_no_answer_until_the_issuer_is_there(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    stub.answer(reply(503))
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        assert await refused(keys, "old") is Reason.KEYS_UNAVAILABLE
        stub.answer(jwks(OLD))
        await until(lambda: bool(keys._keys))
        assert (await keys.find("old", "RS256")).key_id == "old"


@pytest.mark.parametrize("stuck", [hang, drip])
async def test_an_issuer_that_hangs_does_not_hold_up_the_start(
    stub: Stub, stuck: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_READ", 0.05)
    stub.answer(stuck)
    keys = Keys(source_of(stub), ALGORITHMS)
    async with asyncio.timeout(30), keys.refreshed():
        assert await refused(keys, "old") is Reason.KEYS_UNAVAILABLE


async def test_the_keys_are_read_again_in_the_background(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH", 0.01)
    keys = Keys(source_of(stub), ALGORITHMS)
    async with keys.refreshed():
        await until(lambda: stub.tries >= 5)


async def test_a_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH", 0.01)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [OLD.jwk]}))
    keys = Keys(FileSource(file), ALGORITHMS)
    async with keys.refreshed():
        assert (await keys.find("old", "RS256")).key_id == "old"
        file.write_text(json.dumps({"keys": [NEW.jwk]}))
        await until(lambda: ("new", "RS256") in keys._keys)


class Site:
    """An issuer's web site: metadata and keys by path."""

    def __init__(self, stub: Stub, issuer_path: str = "") -> None:
        self.stub = stub
        self.issuer = f"{stub.url}{issuer_path}"
        self.source = IssuerSource(self.issuer, None)

    def metadata(self, **changes: Any) -> Answer:
        """Answer with metadata of this issuer, or with these members instead."""
        return json_reply({"issuer": self.issuer, "jwks_uri": f"{self.stub.url}/certs", **changes})

    async def read(self) -> Any:
        """Read the keys once."""
        try:
            return await self.source.read()
        finally:
            await self.source.close()


async def test_openid_discovery_leads_to_the_keys(stub: Stub) -> None:
    site = Site(stub, "/realms/shop")
    stub.answer(site.metadata(), jwks(OLD))

    assert (await site.read())["keys"][0]["kid"] == "old"
    assert [r.path for r in stub.received] == ["/realms/shop/.well-known/openid-configuration", "/certs"]


async def test_rfc_8414_metadata_leads_to_the_keys(stub: Stub) -> None:
    site = Site(stub, "/realms/shop")
    stub.answer(reply(404), site.metadata(), jwks(OLD))

    assert (await site.read())["keys"][0]["kid"] == "old"
    assert stub.received[1].path == "/.well-known/oauth-authorization-server/realms/shop"


@pytest.mark.parametrize(
    "changes", [{"issuer": "https://evil.example"}, {"jwks_uri": None}, {"jwks_uri": "file:///etc/passwd"}]
)
async def test_metadata_of_another_issuer_or_without_keys_is_refused(stub: Stub, changes: dict[str, Any]) -> None:
    site = Site(stub)
    stub.answer(site.metadata(**changes))

    with pytest.raises(SourceError):
        await site.read()
    assert stub.tries == 1


async def test_the_keys_of_an_https_issuer_are_not_read_in_plain_text(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(stub)
    site.source._issuer = "https://id.example"

    async def get(_url: str) -> Any:
        return {"issuer": "https://id.example", "jwks_uri": f"{stub.url}/certs"}

    monkeypatch.setattr(site.source, "_get", get)
    with pytest.raises(SourceError, match="jwks_uri"):
        await site.read()


async def test_the_place_of_the_keys_is_asked_again_after_a_failure(stub: Stub) -> None:
    site = Site(stub)
    stub.answer(site.metadata(), jwks(OLD), reply(404), site.metadata(jwks_uri=f"{stub.url}/moved"), jwks(NEW))

    await site.source.read()
    with pytest.raises(SourceError):
        await site.source.read()
    assert (await site.read())["keys"][0]["kid"] == "new"
    assert stub.received[-1].path == "/moved"
