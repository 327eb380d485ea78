"""A handler whose annotations are strings."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response


async def halve(limit: int = 20) -> float:
    """Halve a number."""
    return limit / 2


def declare(router: APIRouter) -> None:
    """Add the handler."""

    @router.get("")
    async def get(half: Annotated[float, Depends(halve)], response: Response) -> dict[str, float]:
        response.headers["X-Half"] = str(half)
        return {"half": half}
