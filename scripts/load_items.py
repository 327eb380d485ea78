"""Streams a CSV or JSON-lines file of items into the service.

Each row is one `POST /items` with an `Idempotency-Key` made of the row's place and content, so that a run that was
interrupted may be started again: no row is created twice. A CSV file names its columns in the first line.
"""

import argparse
import asyncio
import csv
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import httpx2
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

_TRIES = 8
_TIMEOUT = 30.0  # seconds, for each try


@dataclass
class Report:
    """What became of the rows."""

    created: int = 0
    replayed: int = 0
    refused: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        done = self.created + self.replayed + self.refused + self.failed
        rate = done / max(time.monotonic() - self.started, 1e-9)
        return (
            f"{done} rows: {self.created} created, {self.replayed} there before, {self.refused} refused,"
            f" {self.failed} failed; {rate:.0f}/s"
        )


class TryAgain(Exception):
    """The service was away, or asked to come back later."""


def rows_of(file: TextIO, suffix: str) -> Iterator[tuple[int, Any]]:
    """Read the rows with their numbers; a row that cannot be read is given as the text that it is."""
    if suffix == ".csv":
        for number, record in enumerate(csv.DictReader(file), 2):
            yield (
                number,
                {name: _number(value) if name == "price" else value for name, value in record.items() if value},
            )
        return
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, line


def _number(text: str) -> Any:  # noqa: ANN401 - a number, or what was there instead
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _post(client: httpx2.AsyncClient, number: int, row: Any) -> httpx2.Response:  # noqa: ANN401 - any JSON
    body = json.dumps(row)
    key = hashlib.sha256(f"{number}:{body}".encode()).hexdigest()
    async for attempt in AsyncRetrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(0.1, max=5),
        retry=retry_if_exception_type((httpx2.TransportError, TryAgain)),
        reraise=True,
    ):
        with attempt:
            headers = {"Content-Type": "application/json", "Idempotency-Key": key}
            response = await client.post("/items", content=body, headers=headers)
            if response.status_code in {409, 429} or response.status_code >= 500:
                raise TryAgain(f"{response.status_code} {response.text}")
    return response


async def _load_one(client: httpx2.AsyncClient, number: int, row: Any, report: Report, refused: TextIO) -> None:  # noqa: ANN401
    try:
        response = await _post(client, number, row)
    except (httpx2.HTTPError, TryAgain) as error:
        report.failed += 1
        refused.write(json.dumps({"line": number, "row": row, "error": str(error) or type(error).__name__}) + "\n")
        return
    if response.status_code == 201:
        if response.headers.get("Idempotent-Replayed") == "true":
            report.replayed += 1
        else:
            report.created += 1
        return
    report.refused += 1
    refused.write(json.dumps({"line": number, "row": row, "error": response.json()["detail"]}) + "\n")


async def load(source: Path, url: str, concurrency: int, refused: TextIO) -> Report:
    """Send every row, at most `concurrency` at a time.

    Returns
    -------
    Report
        How many rows were created, refused, or could not be sent; each of the latter two is written to
        `refused` as a JSON line with its number, itself, and the reason.
    """
    report = Report()
    turn = asyncio.Semaphore(concurrency)
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT, trust_env=False) as client:
        with source.open(encoding="utf-8", newline="") as file:
            async with asyncio.TaskGroup() as tasks:
                for number, row in rows_of(file, source.suffix):
                    await turn.acquire()
                    task = tasks.create_task(_load_one(client, number, row, report, refused))
                    task.add_done_callback(lambda _: turn.release())
                    _show(report)
    _show(report, last=True)
    return report


def _show(report: Report, *, last: bool = False) -> None:
    if last or (sys.stderr.isatty() and (report.created + report.refused) % 100 == 0):
        sys.stderr.write(f"\r{report}" + ("\n" if last else ""))


def main() -> int:
    """Parse the arguments and load; 1 if a row could not be sent."""
    parser = argparse.ArgumentParser(prog="scripts/load-items", description=__doc__)
    parser.add_argument("file", type=Path, help=".csv, or JSON lines; with name, price and description")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=32, help="requests at a time (%(default)s)")
    parser.add_argument("--refused", type=Path, help="where to write the rows refused (FILE.refused)")
    arguments = parser.parse_args()
    refused = arguments.refused or arguments.file.with_name(arguments.file.name + ".refused")
    with refused.open("w", encoding="utf-8") as out:
        report = asyncio.run(load(arguments.file, arguments.url, arguments.concurrency, out))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
