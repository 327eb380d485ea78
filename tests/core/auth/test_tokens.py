"""Which tokens are accepted, which are not and why, and what is remembered of them."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from app.core.auth import tokens
from app.core.auth.failures import AuthFailure, Reason
from app.core.auth.jwks import ALGORITHMS, parse_jwks
from app.core.auth.keys import Keys
from app.core.auth.tokens import Verifier
from tests.support.tokens import AUDIENCE, ISSUER, Signer, claims, hostile_tokens

pytestmark = pytest.mark.anyio

SIGNER = Signer()
HOSTILE = hostile_tokens(SIGNER)


class Memory:
    """A source of keys in memory."""

    def __init__(self, *signers: Signer) -> None:
        self.publish(*signers)

    def publish(self, *signers: Signer) -> None:
        """Have these keys from now on."""
        self._document = {"keys": [signer.jwk for signer in signers]}

    async def read(self) -> Any:
        """Return the keys."""
        return self._document

    async def close(self) -> None:
        """Nothing is open."""


def verifier_of(keys: Keys, algorithms: Sequence[str] = ALGORITHMS) -> Verifier:
    return Verifier(keys, ISSUER, AUDIENCE, algorithms)


@pytest.fixture
async def source() -> Memory:
    return Memory(SIGNER)


@pytest.fixture
async def verifier(source: Memory) -> AsyncIterator[Verifier]:
    keys = Keys(source, ALGORITHMS)
    async with keys.refreshed():
        yield verifier_of(keys)


async def reason_of(verifier: Verifier, token: str) -> Reason:
    with pytest.raises(AuthFailure) as failed:
        await verifier.verify(token.encode())
    return failed.value.reason


async def test_a_valid_token_names_its_caller(verifier: Verifier) -> None:
    identity = await verifier.verify(SIGNER.token(scope="things:read x").encode())

    assert identity.subject == "alice"
    assert identity.scopes == {"things:read", "x"}
    assert identity.claims["aud"] == AUDIENCE


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_token_is_refused(verifier: Verifier, name: str) -> None:
    assert await reason_of(verifier, HOSTILE[name]) in Reason
    assert verifier._remembered == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("alg none", Reason.ALGORITHM),
        ("HS256 by the public PEM", Reason.ALGORITHM),
        ("HS256 by the public JWK", Reason.ALGORITHM),
        ("ES256 with the kid of an RSA key", Reason.UNKNOWN_KEY),
        ("PS256 claimed, RS256 signature", Reason.UNKNOWN_KEY),
        ("kid with SQL", Reason.UNKNOWN_KEY),
        ("jwk header of the stranger", Reason.SIGNATURE),
        ("jku header", Reason.SIGNATURE),
        ("crit unknown", Reason.MALFORMED),
        ("typ of a logout token", Reason.MALFORMED),
        ("encrypted, five segments", Reason.MALFORMED),
        ("17 KB", Reason.MALFORMED),
        ("iss of another issuer", Reason.ISSUER),
        ("aud is a list without us", Reason.AUDIENCE),
        ("exp missing", Reason.CLAIMS),
        ("expired beyond the leeway", Reason.EXPIRED),
        ("nbf in a day", Reason.NOT_YET_VALID),
        ("sub with NUL", Reason.CLAIMS),
        ("signed by a stranger", Reason.SIGNATURE),
    ],
)
async def test_a_refusal_has_its_reason(verifier: Verifier, name: str, reason: Reason) -> None:
    assert await reason_of(verifier, HOSTILE[name]) is reason


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["orders", AUDIENCE]},
        {"exp": 10**400},
        {"exp": 2.0**40 + 0.5},
        {"scope": None, "scp": ["things:read", "things:write"]},
        {"sub": None, "client_id": "alice"},
        {"iat": None},
    ],
)
async def test_what_the_rules_allow_is_accepted(verifier: Verifier, changes: dict[str, Any]) -> None:
    identity = await verifier.verify(SIGNER.token(**changes).encode())

    assert identity.subject == "alice"
    assert identity.scopes == {"things:read", "things:write"}


@pytest.mark.parametrize(("claim", "seconds"), [("exp", -1), ("exp", -15), ("nbf", 15), ("iat", 15)])
async def test_clocks_may_differ_by_the_leeway(verifier: Verifier, claim: str, seconds: int) -> None:
    token = SIGNER.sign(claims(**{claim: int(time.time()) + seconds}))

    assert (await verifier.verify(token.encode())).subject == "alice"


@pytest.mark.parametrize("header", [{"typ": None}, {"typ": "JWT"}, {"typ": "application/at+jwt"}, {"kid": None}])
async def test_headers_that_issuers_use_are_accepted(verifier: Verifier, header: dict[str, Any]) -> None:
    assert (await verifier.verify(SIGNER.token(header).encode())).subject == "alice"


@pytest.mark.parametrize("scope", ["", 7, None, {"things:read": True}, [["things:read"]]])
async def test_a_scope_that_is_no_text_allows_nothing(verifier: Verifier, scope: Any) -> None:
    assert (await verifier.verify(SIGNER.token(scope=scope).encode())).scopes == frozenset()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm_verifies(algorithm: str) -> None:
    signer = Signer.of(algorithm)
    keys = Keys(Memory(signer), ALGORITHMS)
    async with keys.refreshed():
        assert (await verifier_of(keys).verify(signer.token().encode())).subject == "alice"


async def test_an_algorithm_that_is_not_configured_is_refused() -> None:
    signer = Signer.of("RS256")
    keys = Keys(Memory(signer, Signer.of("ES256")), ["ES256"])
    async with keys.refreshed():
        assert await reason_of(verifier_of(keys, ["ES256"]), signer.token()) is Reason.ALGORITHM


async def test_a_verified_token_is_remembered_by_its_digest(verifier: Verifier) -> None:
    token = SIGNER.token().encode()

    first = await verifier.verify(token)

    assert verifier.recall(token) is first
    assert token not in repr(verifier._remembered).encode()


async def test_a_remembered_token_expires(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = int(time.time()) + 3600
    token = SIGNER.token(exp=exp).encode()
    first = await verifier.verify(token)

    monkeypatch.setattr(time, "time", lambda: exp + tokens.LEEWAY - 1)
    assert verifier.recall(token) is first
    monkeypatch.setattr(time, "time", lambda: exp + tokens.LEEWAY)
    assert verifier.recall(token) is None


async def test_what_is_remembered_is_limited(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MAX_REMEMBERED", 3)

    for number in range(10):
        await verifier.verify(SIGNER.token(sub=f"caller-{number}").encode())

    assert [identity.subject for _, identity in verifier._remembered.values()] == ["caller-7", "caller-8", "caller-9"]


async def test_what_was_verified_by_a_key_that_is_withdrawn_is_forgotten() -> None:
    source = Memory(SIGNER)
    keys = Keys(source, ALGORITHMS)
    async with keys.refreshed():
        verifier, token = verifier_of(keys), SIGNER.token().encode()
        await verifier.verify(token)
        source.publish(Signer("k2"))
        await reason_of(verifier, Signer("unknown").token())  # has the keys read again

        assert verifier.recall(token) is None
        assert await reason_of(verifier, token.decode()) is Reason.UNKNOWN_KEY


def test_a_jwk_set_keeps_only_keys_for_signatures() -> None:
    signer = Signer()
    private = {**signer.jwk, "kid": "private", "d": "AQAB"}
    others = [
        {**signer.jwk, "kid": "enc", "use": "enc"},
        {**signer.jwk, "kid": "wrap", "key_ops": ["wrapKey"]},
        {**signer.jwk, "kid": "other", "alg": "RS512"},
        {**signer.jwk, "kid": 7},
        {**signer.jwk, "kid": "broken", "n": "!"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"},
        {"kty": "new", "kid": "new"},
        "text",
        private,
    ]

    keys = parse_jwks({"keys": [*others, signer.jwk]}, ALGORITHMS)

    assert set(keys) == {("k1", "RS256"), (None, "RS256")}


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": [{"kty": "oct"}]}])
def test_a_document_without_keys_is_an_error(document: Any) -> None:
    with pytest.raises(ValueError, match="JWK Set"):
        parse_jwks(document, ALGORITHMS)
