"""`GET /metrics`: the metrics of `app.core.observability.instruments`, over all workers."""

import asyncio
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from fastapi import APIRouter, HTTPException
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from app.core.observability.instruments import MULTIPROCESS

_log = logging.getLogger(__name__)
router = APIRouter(tags=["operations"])
# A scrape reads files, so it does not run on the event loop.
_scraper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")


class WorkersCollector(Collector):
    """Sums the files of all workers.

    The library's own collector fails on an empty file, which a starting worker has just created, and the scrape fails
    with it. Every worker creates such files, since the gauges of its predecessor are removed.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Read the files that are not empty."""
        with os.scandir(self._folder) as entries:
            files = [entry.path for entry in entries if entry.name.endswith(".db") and _has_content(entry)]
        metrics: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return metrics


def _has_content(file: os.DirEntry[str]) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # its worker has just ended
        return False


@lru_cache(maxsize=1)
def _registry() -> CollectorRegistry:
    if not MULTIPROCESS:
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(WorkersCollector(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
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
    try:
        content = await loop.run_in_executor(_scraper, generate_latest, _registry())
    except OSError as error:
        _log.error("The metrics cannot be read: %s", error)  # there may be no file descriptor left
        raise HTTPException(503) from error
    return Response(content, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
