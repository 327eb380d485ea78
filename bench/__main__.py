"""Measure the service and its peers side by side.

All services run at the same time on one PostgreSQL with one data set, and are measured one after the other: in every
round once, in random order, so that other load on the machine affects all equally. Compare medians, and CPU time rather
than throughput, since it is more stable on a busy machine.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench import equal, machine, options, report
from bench.contenders import (
    Contender,
    Running,
    install_fastify,
    ours,
    ours_with_token,
    peers,
    running,
)
from bench.data import Data, prepared
from bench.load import Load, drive
from bench.report import Result, Sample
from tests.support.wire import counted

ROOT = Path(__file__).resolve().parents[1]
_WARM_UP = 1.0
# Where services log and keep their metrics: in memory if possible.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
_PAGE_10_000 = 9_999 * 20
_DEEP_PAGES = 100


def _contenders(arguments: argparse.Namespace) -> list[Contender]:
    known = {"ours": ours(), **peers(arguments.data)}
    if "token" in arguments.services:
        known["token"] = ours_with_token()
    if "fastify" in arguments.services:
        install_fastify(arguments.data / "fastify")
    others = (pair.partition("=") for pair in arguments.also)
    return [known[name] for name in arguments.services] + [ours(name, Path(at).resolve()) for name, _, at in others]


def _deep(data: Data) -> int:
    return min(_PAGE_10_000, data.rows // 2)


def _cursors(service: Running, load: Load, data: Data) -> list[str]:
    """List the cursors of many pages up to the deep one, of which each request takes another."""
    if load.workload != "list_deep":
        return []
    deep = _deep(data)
    return [service.cursor_after(item_id) for item_id in range(max(20, deep - 20 * _DEEP_PAGES), deep + 1, 20)]


def _measure(service: Running, load: Load, seconds: float, data: Data) -> Sample:
    service.forget_log()
    cursors = _cursors(service, load, data)
    token = service.contender.token
    drive(service.url, load, _WARM_UP, rows=data.rows, cursors=cursors, token=token)
    before = service.cpu_seconds(), machine.cpu_seconds(data.pid)
    outcome = drive(service.url, load, seconds, rows=data.rows, cursors=cursors, token=token)
    after = service.cpu_seconds(), machine.cpu_seconds(data.pid)
    number = max(outcome.requests, 1)
    if not outcome.requests:
        _say(f"{service.contender.name} does not answer at {load}: it is restarted")
        service.restart()
    service_cpu, database_cpu = ((now - then) * 1e6 / number for then, now in zip(before, after, strict=True))
    return Sample(
        requests_per_second=outcome.requests * 1e6 / outcome.duration,
        p50=outcome.p50 / 1000,
        p99=outcome.p99 / 1000,
        p999=outcome.p999 / 1000,
        service_cpu=service_cpu,
        database_cpu=database_cpu,
        failed=outcome.failed if outcome.requests else 1,
        stuck=not outcome.requests,
        load_average=round(machine.load_average(), 2),
    )


class Bench:
    """One run of everything.

    Attributes
    ----------
    results
        So far.
    facts
        About the services: the time until they are ready, and the memory of a worker.
    """

    def __init__(self, arguments: argparse.Namespace, data: Data, folder: Path) -> None:
        self._arguments, self._data, self._folder = arguments, data, folder
        self.results: list[Result] = []
        self.facts: dict[str, dict[str, float]] = {}

    def run(self, contenders: list[Contender], workers: int) -> None:
        """Measure all cells of one number of workers."""
        cells = options.cells(self._arguments, workers)
        with contextlib.ExitStack() as stack:
            services = [
                stack.enter_context(running(contender, self._data.url, workers, self._folder))
                for contender in contenders
            ]
            equal.check(services, self._data.rows, _deep(self._data))
            found = {
                (cell, service): Result(cell, service.contender.name, [])
                for cell in cells
                for service in services
                if options.takes_part(service.contender, cell)
            }
            self.results += found.values()
            for number in range(self._arguments.rounds):
                for cell in cells:
                    self._data.tidy()
                    for service in random.sample(services, len(services)):
                        result = found.get((cell, service))
                        # What has stopped answering once would only take the time of a restart again.
                        if result is not None and not (result.samples and result.stuck):
                            sample = _measure(service, cell.load, self._arguments.seconds, self._data)
                            result.samples.append(sample)
                _say(f"round {number + 1} of {self._arguments.rounds}, {workers} workers: done")
            self._note(services, workers)
        if self._arguments.wire:
            self._count_round_trips(contenders, workers)

    def _note(self, services: list[Running], workers: int) -> None:
        for service in services:
            sizes = service.worker_memory()
            self.facts[f"{service.contender.name}, {workers} workers"] = {
                "ready_seconds": round(service.ready_seconds, 2),
                "worker_rss_mb": round(max(size.resident for size in sizes), 1),
                "worker_pss_mb": round(max(size.proportional for size in sizes), 1),
            }

    def _count_round_trips(self, contenders: list[Contender], workers: int) -> None:
        for contender in contenders:
            if not contender.has_database:
                continue
            with (
                counted(self._data.url) as wire,
                running(contender, wire.url, workers, self._folder) as service,
            ):
                for result in self.results:
                    if result.name == contender.name and result.cell.workers == workers:
                        cursors = _cursors(service, result.cell.load, self._data)
                        drive(
                            service.url,
                            result.cell.load,
                            1,
                            rows=self._data.rows,
                            cursors=cursors,
                            token=contender.token,
                        )
                        before = wire.round_trips
                        outcome = drive(
                            service.url,
                            result.cell.load,
                            2,
                            rows=self._data.rows,
                            cursors=cursors,
                            token=contender.token,
                        )
                        result.round_trips = (wire.round_trips - before) / max(outcome.requests, 1)


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")


def _loads(results: Iterable[Result]) -> dict[str, float]:
    loads = sorted(sample.load_average for result in results for sample in result.samples)
    return {"lowest": loads[0], "median": statistics.median(loads), "highest": loads[-1]}


def main() -> int:
    """Run as a command."""
    arguments = options.parse()
    missing = [name for name in ("wrk", "node" if "fastify" in arguments.services else "wrk") if not shutil.which(name)]
    if missing:
        sys.exit(f"bench: {', '.join(missing)} is missing; on Debian: apt install wrk nodejs npm")
    arguments.data.mkdir(parents=True, exist_ok=True)
    contenders = _contenders(arguments)
    with (
        prepared(arguments.data / "postgres", arguments.rows) as data,
        tempfile.TemporaryDirectory(prefix="bench-", dir=_MEMORY) as folder,
    ):
        bench = Bench(arguments, data, Path(folder))
        for workers in dict.fromkeys(map(int, arguments.workers)):
            bench.run(contenders, workers)
        facts = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "postgresql": data.version(),
            "rows": data.rows,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "load_average": _loads(bench.results),
            "services": bench.facts,
        }
    _publish(arguments.out or arguments.data, facts, bench.results)
    return 1 if any(sample.failed for result in bench.results for sample in result.samples) else 0


def _publish(folder: Path, facts: dict[str, object], results: list[Result]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    last = report.ratios_of(folder / "performance.json")
    written = json.dumps(report.write_up(facts, results), indent=1)
    (folder / "performance.json").write_text(written + "\n")
    (folder / "performance.svg").write_text(report.picture(results, "The service and its peers"))
    print(json.dumps(facts, indent=1))  # noqa: T201 - it is a command
    print(report.table(results, last))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
