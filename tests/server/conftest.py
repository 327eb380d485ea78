"""A service a test, and what holds for each of them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.server.service import Service


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Start services that are ended, and whose output is checked, after the test."""
    services: list[Service] = []

    def _start(**env: Any) -> Service:
        services.append(Service(**env))
        return services[-1].wait_ready()

    yield _start
    codes = [service.stop() for service in services]
    for service in services:
        service.assert_only_json()
    assert all(code in (0, -9) for code in codes), codes
