"""Streams a CSV or JSON-lines file of items into the service.

Each row is one `POST /items` with an `Idempotency-Key` made of the row's place and content: a run that was interrupted
may be started again within 24 hours, and no row is created twice. A CSV file names its columns in the first line.
"""

import argparse
import asyncio
import csv
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import httpx2
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

_TRIES = 8
_TIMEOUT = 30.0  # seconds, for each try
_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_BAR = 24  # characters
_REDRAW = 0.2  # seconds between two updates of the bar


class RetryableError(Exception):
    """The service was unavailable, or asked for a later retry."""


class UnavailableError(Exception):
    """The service remains unavailable, so the load ends."""


@dataclass
class Report:
    """How many rows had which result."""

    created: int = 0
    replayed: int = 0
    refused: int = 0
    started: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        done = self.created + self.replayed + self.refused
        rate = done / max(time.monotonic() - self.started, 1e-9)
        return (
            f"{done} rows: {self.created} created, {self.replayed} there before, {self.refused} refused; {rate:.0f}/s"
        )


def rows_of(file: TextIO, suffix: str) -> Iterator[tuple[int, str]]:
    """Read the rows as the JSON to send, each with the number of its (last) line; numbers keep all their digits."""
    if suffix == ".csv":
        reader = csv.DictReader(file)
        for record in reader:
            yield reader.line_num, _json_of(record)
        return
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, line.strip()


def _json_of(record: dict[str, str]) -> str:
    """Write a CSV row as JSON: an empty cell is left out, and the price is a number if possible."""
    members = (
        f"{json.dumps(name)}: {value if name == 'price' and _JSON_NUMBER.fullmatch(value) else json.dumps(value)}"
        for name, value in record.items()
        if value
    )
    return f"{{{', '.join(members)}}}"


async def _post(client: httpx2.AsyncClient, number: int, body: str) -> httpx2.Response:
    content = body.encode("utf-8", "surrogateescape")
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": hashlib.sha256(b"%d:%b" % (number, content)).hexdigest(),
    }
    async for attempt in AsyncRetrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(0.1, max=5),
        retry=retry_if_exception_type((httpx2.TransportError, RetryableError)),
        reraise=True,
    ):
        with attempt:
            response = await client.post("/items", content=content, headers=headers)
            if response.status_code in {409, 429} or response.status_code >= 500:
                raise RetryableError(f"{response.status_code} {response.text}")
    return response


async def _load_one(client: httpx2.AsyncClient, number: int, body: str, report: Report, refused: TextIO) -> None:
    try:
        response = await _post(client, number, body)
    except (httpx2.TransportError, RetryableError) as error:
        raise UnavailableError(str(error) or type(error).__name__) from error
    if response.status_code == 201:
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        report.replayed += replayed
        report.created += not replayed
        return
    report.refused += 1
    try:
        reason = response.json()["detail"]
    except (ValueError, LookupError, TypeError):  # the answer of another server
        reason = f"{response.status_code}: not a response of the service"
    refused.write(json.dumps({"line": number, "row": body, "error": reason}) + "\n")


async def load(source: Path, url: str, concurrency: int, refused: TextIO) -> Report:
    """Send every row, at most `concurrency` at a time.

    Returns
    -------
    Report
        How many rows were created, existed before, and were refused; each refused row is written to `refused` as a
        JSON line with its number, the row, and the reason.

    Raises
    ------
    ExceptionGroup
        Of `UnavailableError`, if the service does not answer.
    """
    report = Report()
    slots = asyncio.Semaphore(concurrency)
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT, trust_env=False) as client:
        # Bytes that are not UTF-8 are sent as they are: the service rejects them.
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            bar = Bar(file, report)
            async with asyncio.TaskGroup() as tasks:
                for number, body in rows_of(file, source.suffix.lower()):
                    await slots.acquire()
                    task = tasks.create_task(_load_one(client, number, body, report, refused))
                    task.add_done_callback(lambda _: slots.release())
                    bar.show()
    return report


class Bar:
    """A line on the terminal, if there is one: how much of the file was read, and with which results."""

    def __init__(self, file: TextIO, report: Report) -> None:
        self._file = file
        self._size = max(1, os.fstat(file.fileno()).st_size)
        self._report = report
        self._shown = 0.0

    def show(self) -> None:
        """Draw the bar, unless it was drawn just before."""
        if not sys.stderr.isatty() or time.monotonic() - self._shown < _REDRAW:
            return
        self._shown = time.monotonic()
        part = min(1.0, self._file.buffer.tell() / self._size)
        full = round(part * _BAR)
        sys.stderr.write(f"\r[{'#' * full}{'.' * (_BAR - full)}] {part:4.0%}  {self._report}\033[K")
        sys.stderr.flush()


def main() -> int:
    """Parse the arguments and load; return 0 if every row exists now, otherwise 1."""
    parser = argparse.ArgumentParser(prog="scripts/load-items", description=__doc__)
    parser.add_argument("file", type=Path, help=".csv, or JSON lines; with name, price and description")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=32, help="requests at a time (%(default)s)")
    parser.add_argument("--refused", type=Path, help="where to write the rows refused (FILE.refused)")
    arguments = parser.parse_args()
    refused = arguments.refused or arguments.file.with_name(arguments.file.name + ".refused")
    if not arguments.file.is_file():
        parser.error(f"there is no file {arguments.file}")
    if arguments.concurrency < 1:
        parser.error("--concurrency must be 1 or more")
    ended = ""  # on Python 3.11, an exception that `except*` raises becomes part of a group
    with refused.open("w", encoding="utf-8") as out:
        try:
            report = asyncio.run(load(arguments.file, arguments.url, arguments.concurrency, out))
        except* UnavailableError as errors:
            ended = (
                f"{arguments.url} accepts no items ({errors.exceptions[0]}); check that it runs, and"
                " start this again: what was loaded is not loaded twice"
            )
        except* KeyboardInterrupt:
            ended = "interrupted; start it again: what was loaded is not loaded twice"
    if ended:
        sys.exit(f"\nload-items: {ended}")
    lead = "\r" if sys.stderr.isatty() else ""
    print(f"{lead}{report}\033[K" if lead else report, file=sys.stderr)
    if report.refused:
        print(f"the rows refused, with reasons: {refused}", file=sys.stderr)
    else:
        refused.unlink()
    return 1 if report.refused else 0


if __name__ == "__main__":
    sys.exit(main())
