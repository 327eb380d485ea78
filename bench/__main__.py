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
from typing import Any

from bench import equal, machine, report
from bench.contenders import Contender, Running, install_fastify, ours, ours_with_token, peers, running
from bench.data import Data, prepared
from bench.load import Load, drive
from bench.report import Cell, Result, Sample
from tests.support.wire import counted

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = ("get", "hot", "create", "create_once", "list", "list_deep", "patch", "mixed")
# Workloads for which the number of connections matters most; the others are measured at 32.
_AT_ALL = ("get", "create")
_WARM_UP = 1.0
# Where services log and keep their metrics: in memory if possible.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
_PAGE_10_000 = 9_999 * 20


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    words: dict[str, Any] = {"type": lambda text: text.split(","), "metavar": "A,B,..."}
    parser.add_argument("--workloads", default=list(WORKLOADS), help=", ".join(WORKLOADS), **words)
    parser.add_argument("--connections", help="by default 32, and for get and create also 1 and 256", **words)
    parser.add_argument("--workers", default=["1", str(os.cpu_count())], help="by default 1, and one a core", **words)
    names = ["ours", *peers(Path())]
    parser.add_argument(
        "--services", default=names, help=f"{', '.join(names)}, token (ours with authentication)", **words
    )
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER", help="another checkout of ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement; a warm-up comes on top")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--wire", action="store_true", help="count round trips, too, in a run of their own")
    parser.add_argument("--data", type=Path, default=ROOT / ".data" / "bench", help="a folder (%(default)s)")
    parser.add_argument("--out", type=Path, help="where performance.json and performance.svg go (the data's folder)")
    return parser.parse_args()


def _cells(arguments: argparse.Namespace, workers: int) -> list[Cell]:
    """List what is measured with this number of workers; by default, with one worker only `_AT_ALL`."""
    cells = []
    for workload in arguments.workloads:
        usual = ["32"] if workers == 1 or workload not in _AT_ALL else ["1", "32", "256"]
        if arguments.connections is None and workers == 1 != int(arguments.workers[-1]) and workload not in _AT_ALL:
            continue
        cells += [Cell(Load(workload, int(number)), workers) for number in arguments.connections or usual]
    return cells


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


def _cursor(service: Running, data: Data) -> str:
    return service.cursor_after(_deep(data))


def _measure(service: Running, load: Load, seconds: float, data: Data) -> Sample:
    service.forget_log()
    cursor = _cursor(service, data) if load.workload == "list_deep" else ""
    token = service.contender.token
    drive(service.url, load, _WARM_UP, rows=data.rows, cursor=cursor, token=token)
    before = service.cpu_seconds(), machine.cpu_seconds(data.pid)
    outcome = drive(service.url, load, seconds, rows=data.rows, cursor=cursor, token=token)
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
        cells = _cells(self._arguments, workers)
        with contextlib.ExitStack() as stack:
            services = [
                stack.enter_context(running(contender, self._data.url, workers, self._folder))
                for contender in contenders
            ]
            equal.check(services, self._data.rows, _deep(self._data))
            found = {
                (cell, service): Result(cell, service.contender.name, []) for cell in cells for service in services
            }
            self.results += found.values()
            for number in range(self._arguments.rounds):
                for cell in cells:
                    self._data.tidy()
                    for service in random.sample(services, len(services)):
                        sample = _measure(service, cell.load, self._arguments.seconds, self._data)
                        found[cell, service].samples.append(sample)
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
                        cursor = _cursor(service, self._data) if result.cell.load.workload == "list_deep" else ""
                        drive(
                            service.url, result.cell.load, 1, rows=self._data.rows, cursor=cursor, token=contender.token
                        )
                        before = wire.round_trips
                        outcome = drive(
                            service.url, result.cell.load, 2, rows=self._data.rows, cursor=cursor, token=contender.token
                        )
                        result.round_trips = (wire.round_trips - before) / max(outcome.requests, 1)


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")


def _loads(results: Iterable[Result]) -> dict[str, float]:
    loads = sorted(sample.load_average for result in results for sample in result.samples)
    return {"lowest": loads[0], "median": statistics.median(loads), "highest": loads[-1]}


def main() -> int:
    """Run as a command."""
    arguments = _arguments()
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
    written = json.dumps(report.write_up(facts, results), indent=1)
    (folder / "performance.json").write_text(written + "\n")
    (folder / "performance.svg").write_text(report.picture(results, "The service and its peers"))
    print(json.dumps(facts, indent=1))  # noqa: T201 - it is a command
    print(report.table(results))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
