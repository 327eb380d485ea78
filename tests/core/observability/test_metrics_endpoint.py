"""The scrape, when the process is short of file descriptors."""

import asyncio
import errno

import pytest
from fastapi import HTTPException

from app.core.observability import metrics_endpoint


def test_a_scrape_without_file_descriptors_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_registry: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(metrics_endpoint, "generate_latest", fail)
    with pytest.raises(HTTPException) as caught:
        asyncio.run(metrics_endpoint.get_metrics())
    assert caught.value.status_code == 503
