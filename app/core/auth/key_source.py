"""Where the issuer's keys come from: its metadata and JWK Set over HTTP, or a file."""

import asyncio
import json
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from app.core.http_client import new_http_client

_TIMEOUT = 5.0
"""Seconds for metadata and keys together."""
_MAX_BYTES = 256 * 1024


class SourceError(Exception):
    """The keys cannot be read now. The message is for the log."""


class Source(Protocol):
    """Reads the JWK Set, or raises `SourceError`."""

    async def read(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the document."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class FileSource:
    """A file with a JWK Set, for networks from which the issuer cannot be reached."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the present content of the file."""
        try:
            return json.loads(await asyncio.to_thread(self._path.read_bytes))
        except (OSError, ValueError) as error:
            raise SourceError(f"{self._path}: {error}") from error

    async def close(self) -> None:
        """Do nothing: no connection is open."""


class IssuerSource:
    """The issuer itself.

    Parameters
    ----------
    issuer
        `AUTH_ISSUER`.
    jwks_url
        Where the keys are; by default where the issuer's metadata says.
    """

    def __init__(self, issuer: str, jwks_url: str | None) -> None:
        self._issuer = issuer
        self._given_url = self._url = jwks_url
        self._client = new_http_client(
            verify=httpx2.create_ssl_context(),  # which uses SSL_CERT_FILE
            timeout=_TIMEOUT,
            limits=httpx2.Limits(max_connections=2, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def read(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the JWK Set; after a failure, its URL is read again from the metadata."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                self._url = self._url or await self._discover()
                return await self._get(self._url)
        except SourceError:
            self._url = self._given_url
            raise
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError, ValueError) as error:
            self._url = self._given_url
            raise SourceError(f"{type(error).__name__}: {error}") from error

    async def _discover(self) -> str:
        """Read `jwks_uri` of the issuer's metadata: OpenID Connect Discovery 1.0, section 4; RFC 8414, section 3."""
        try:
            metadata = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        except SourceError:
            parts = urlsplit(self._issuer)
            path = f"/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"
            metadata = await self._get(parts._replace(path=path).geturl())
        if not isinstance(metadata, dict) or metadata.get("issuer") != self._issuer:
            raise SourceError("the metadata is of another issuer than AUTH_ISSUER")
        url = metadata.get("jwks_uri")
        secure = urlsplit(self._issuer).scheme == "https"
        if not isinstance(url, str) or not url.startswith("https://" if secure else ("https://", "http://")):
            raise SourceError("the metadata has no usable jwks_uri")
        return url

    async def _get(self, url: str) -> Any:  # noqa: ANN401 - any JSON value
        async with self._client.stream("GET", url) as response:
            if response.status_code != 200:
                raise SourceError(f"{url} answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise SourceError(f"{url} answered more than {_MAX_BYTES} bytes")
        return json.loads(bytes(body))
