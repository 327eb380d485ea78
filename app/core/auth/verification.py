"""From the settings to what verifies tokens, for as long as the app runs. Imported only where authentication is on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.auth.jwks import ALGORITHMS
from app.core.auth.keys import Keys
from app.core.auth.source import FileSource, IssuerSource, Source
from app.core.auth.tokens import Verifier
from app.core.config import Settings


@asynccontextmanager
async def verification(settings: Settings) -> AsyncIterator[Verifier]:
    """Make the verifier of `AUTH_ISSUER` and `AUTH_AUDIENCE`, and keep its keys fresh while the block runs."""
    assert settings.auth_issuer is not None  # noqa: S101 - the caller's condition
    assert settings.auth_audience is not None  # noqa: S101 - the settings have both or none
    algorithms = settings.auth_algorithms or ALGORITHMS
    source: Source
    if settings.auth_jwks_file is not None:
        source = FileSource(settings.auth_jwks_file)
    else:
        source = IssuerSource(settings.auth_issuer, settings.auth_jwks_url)
    keys = Keys(source, algorithms)
    async with keys.refreshed():
        yield Verifier(keys, settings.auth_issuer, settings.auth_audience, algorithms)
