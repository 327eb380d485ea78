"""The HTTP client below those of other services and of the issuer of tokens."""

from typing import Any

import httpx2

# Bytes that are parsed in one iteration of the event loop: 64 KiB in chunks of one byte took it 0.4 to 0.9 s.
_READ_BYTES = 4096


def new_http_client(**options: Any) -> httpx2.AsyncClient:  # noqa: ANN401 - httpx2's own
    """Create a client that follows no redirects, and ignores the environment: proxies, `.netrc`.

    Parameters
    ----------
    **options
        Other arguments of `httpx2.AsyncClient`.
    """
    import httpcore2  # noqa: PLC0415 - 3 MB, which httpx2 does not load before it makes a client either

    httpcore2.AsyncHTTP11Connection.READ_NUM_BYTES = _READ_BYTES
    return httpx2.AsyncClient(
        headers={"Accept": "application/json"}, follow_redirects=False, trust_env=False, **options
    )
