"""Which requests FastAPI's own handler serves."""

from typing import Any

import fastapi
import pytest
from fastapi.dependencies.utils import solve_dependencies


@pytest.fixture
def fastapis_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each request that FastAPI's own handler solves the dependencies of."""
    calls: list[str] = []
    solve = solve_dependencies

    async def noted(**arguments: Any) -> Any:
        calls.append(arguments["dependant"].path)
        return await solve(**arguments)

    monkeypatch.setattr(fastapi.routing, "solve_dependencies", noted)
    return calls
