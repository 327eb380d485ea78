"""Floods of different tokens: what a worker keeps of them, and what the issuer is asked, have limits."""

import asyncio
import secrets
import tracemalloc

import pytest

from app.core.auth.failures import AuthFailure, Reason
from app.core.auth.jwks import ALGORITHMS
from app.core.auth.key_source import IssuerSource
from app.core.auth.keys import EXTRA_READ_SECONDS, EXTRA_READS, Keys
from app.core.auth.tokens import Verifier
from tests.support.downstream import json_reply, stub_service
from tests.support.tokens import AUDIENCE, ISSUER, Signer, claims, encode

SIGNER = Signer.of("EdDSA", "known")
VALID, FORGED = 15_000, 35_000
MOST_MEMORY = 12_000_000
"""Bytes. A valid token that is remembered takes 1.5 KB, and 4,096 are."""


def forged(number: int) -> tuple[str, Reason]:
    """Make a token that no other one equals, and say why it is refused."""
    payload, signature = encode(claims(jti=str(number))), encode(secrets.token_bytes(64))
    kinds = {
        Reason.SIGNATURE: {"alg": "EdDSA", "kid": "known"},
        Reason.UNKNOWN_KEY: {"alg": "EdDSA", "kid": f"made-up-{number}"},
        Reason.ALGORITHM: {"alg": f"HS{number}"},
    }
    reason = list(kinds)[number % len(kinds)]
    return f"{encode(kinds[reason])}.{payload}.{signature}", reason


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_flood_of_tokens_costs_neither_memory_nor_the_issuer() -> None:
    with stub_service() as stub:
        stub.answer(json_reply({"keys": [SIGNER.jwk]}))
        keys = Keys(IssuerSource("https://id.example", f"{stub.url}/keys"), ALGORITHMS)
        async with keys.refreshed():
            verifier = Verifier(keys, ISSUER, AUDIENCE, ALGORITHMS)
            started = asyncio.get_running_loop().time()
            tracemalloc.start()
            for number in range(VALID):
                await verifier.verify(SIGNER.token(jti=str(number)).encode())
            for number in range(FORGED):
                token, reason = forged(number)
                with pytest.raises(AuthFailure) as failed:
                    await verifier.verify(token.encode())
                assert failed.value.reason is reason
            kept, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            seconds = asyncio.get_running_loop().time() - started

    assert kept < MOST_MEMORY
    assert stub.tries <= 1 + EXTRA_READS + seconds / EXTRA_READ_SECONDS + 1
