"""`GET /metrics`: the instruments of `app.core.metrics`, over all workers."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess
from starlette.responses import Response

from app.core.metrics import MULTIPROCESS

router = APIRouter(tags=["operations"])
# A scrape reads files: not on the event loop, and not behind the requests that wait for a database thread.
_scraper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")


@lru_cache(maxsize=1)
def registry() -> CollectorRegistry:
    """Give what a scrape reads: the files of all workers, or this process alone where there are none."""
    if not MULTIPROCESS:
        return REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


@router.get(
    "/metrics",
    summary="Metrics of all workers, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def get_metrics() -> Response:
    """Render the sum over all workers in the Prometheus text format."""
    loop = asyncio.get_running_loop()
    content = await loop.run_in_executor(_scraper, generate_latest, registry())
    return Response(content, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
