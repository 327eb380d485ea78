"""Medians of the rounds, as a table, as JSON, and as a picture."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from bench.load import Load


@dataclass(frozen=True)
class Cell:
    """What is measured together: all services, in each round, one after the other."""

    load: Load
    workers: int

    def __str__(self) -> str:
        return f"{self.load.workload}, {self.load.connections} connections, {self.workers} workers"


@dataclass(frozen=True)
class Sample:
    """One measurement: durations in milliseconds, CPU time in microseconds per request; `stuck`: no response."""

    requests_per_second: float
    p50: float
    p99: float
    p999: float
    service_cpu: float
    database_cpu: float
    failed: int
    stuck: bool
    load_average: float


@dataclass
class Result:
    """One service in one cell."""

    cell: Cell
    name: str
    samples: list[Sample]
    round_trips: float | None = None

    def median(self, field: str) -> float:
        """Return the median of a field, without samples of a service that did not answer."""
        return float(statistics.median(getattr(sample, field) for sample in self._good))

    @property
    def cpu(self) -> float:
        """CPU time of a request, service and database together."""
        return statistics.median(sample.service_cpu + sample.database_cpu for sample in self._good)

    @property
    def stuck(self) -> bool:
        """Whether it never answered at all."""
        return all(sample.stuck for sample in self.samples)

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is found by in another run."""
        return self.cell.load.workload, self.cell.load.connections, self.cell.workers, self.name

    @property
    def _good(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.stuck] or self.samples

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "workload": self.cell.load.workload,
            "connections": self.cell.load.connections,
            "workers": self.cell.workers,
            "service": self.name,
            "round_trips": self.round_trips,
            "median": {field: round(self.median(field), 3) for field in Sample.__dataclass_fields__},
            "samples": [asdict(sample) for sample in self.samples],
        }


_REFERENCE = "fastify"
_COLUMNS = (
    *("service", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU us: service", "+ PostgreSQL"),
    *(f"CPU / {_REFERENCE}'s", "in the last run", "round trips"),
)
_Key = tuple[Any, ...]
"""Workload, connections, workers and service."""


def _ratios(cpu: Mapping[_Key, float]) -> dict[_Key, float]:
    """Divide the CPU time of each by that of the reference in the same cell."""
    return {key: value / cpu[*key[:3], _REFERENCE] for key, value in cpu.items() if cpu.get((*key[:3], _REFERENCE))}


def ratios_of(file: Path) -> dict[_Key, float]:
    """Read the ratios of the run that was written to a file; none if there is no file."""
    if not file.exists():
        return {}
    cpu = {}
    for result in json.loads(file.read_text())["results"]:
        key = *(result[name] for name in ("workload", "connections", "workers")), result["service"]
        good = [sample for sample in result["samples"] if not sample["stuck"]]
        if good:
            cpu[key] = statistics.median(sample["service_cpu"] + sample["database_cpu"] for sample in good)
    return _ratios(cpu)


def table(results: Sequence[Result], last: Mapping[_Key, float]) -> str:
    """Render everything as Markdown, a table for each cell; `last` are the ratios of the last run."""
    ratios = _ratios({result.key: result.cpu for result in results if not result.stuck})
    lines = []
    for cell in dict.fromkeys(result.cell for result in results):
        lines += [f"\n{cell}\n", f"| {' | '.join(_COLUMNS)} |", "| --- " + "| ---: " * (len(_COLUMNS) - 1) + "|"]
        lines += [
            _row(result, ratios.get(result.key), last.get(result.key)) for result in results if result.cell == cell
        ]
    return "\n".join(lines)


def _row(result: Result, ratio: float | None, last: float | None) -> str:
    trips = "" if result.round_trips is None else f"{result.round_trips:.2f}"
    failed = sum(sample.failed for sample in result.samples)
    name = f"{result.name} ({failed} failed)" if failed else result.name
    if result.stuck:
        return f"| {result.name} (stuck) " + "| " * (len(_COLUMNS) - 1) + "|"
    words = (
        name,
        f"{result.median('requests_per_second'):,.0f}",
        *(f"{result.median(field):.2f}" for field in ("p50", "p99", "p999")),
        f"{result.median('service_cpu'):,.0f}",
        f"{result.median('database_cpu'):,.0f}",
        *("" if number is None else f"{number:.2f}" for number in (ratio, last)),
        trips,
    )
    return f"| {' | '.join(words)} |"


_BAR, _GAP, _LEFT, _WIDTH = 15, 22, 100, 760
_FONT = 'font-family="sans-serif" font-size="12"'
_SERVICE, _DATABASE = "#2563a8", "#e0a030"


def picture(results: Iterable[Result], title: str) -> str:
    """Draw CPU time per request as bars, a group for each cell; services that did not answer are omitted."""
    cells: dict[Cell, list[Result]] = {}
    for result in results:
        if not result.stuck:
            cells.setdefault(result.cell, []).append(result)
    body, y = [], 56
    for cell, members in cells.items():
        longest = max(member.cpu for member in members) or 1.0
        body.append(f'<text x="12" y="{y}" font-weight="bold">{escape(str(cell))}</text>')
        for member in members:
            y += _GAP
            body += _bars(member, y, (_WIDTH - _LEFT - 230) / longest)
        y += 2 * _GAP
    legend = "CPU microseconds a request: service (blue) and PostgreSQL (ochre); requests a second"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y - 10}" {_FONT}>',
            f'<rect width="{_WIDTH}" height="{y - 10}" fill="white"/>',
            f'<text x="12" y="18" font-size="14">{escape(title)}</text>',
            f'<text x="12" y="34" fill="#444">{legend}</text>',
            *body,
            "</svg>\n",
        ]
    )


def _bars(result: Result, y: int, scale: float) -> list[str]:
    service, database = result.median("service_cpu") * scale, result.median("database_cpu") * scale
    numbers = f"{result.median('service_cpu'):,.0f} + {result.median('database_cpu'):,.0f}"
    rate = f"{result.median('requests_per_second'):,.0f}/s"
    return [
        f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end">{escape(result.name)}</text>',
        f'<rect x="{_LEFT}" y="{y - 12}" width="{service:.1f}" height="{_BAR}" fill="{_SERVICE}"/>',
        f'<rect x="{_LEFT + service:.1f}" y="{y - 12}" width="{database:.1f}" height="{_BAR}" fill="{_DATABASE}"/>',
        f'<text x="{_LEFT + service + database + 6:.1f}" y="{y}">{numbers} <tspan fill="#777">{rate}</tspan></text>',
    ]


def write_up(facts: Mapping[str, object], results: Sequence[Result]) -> dict[str, Any]:
    """Put everything into one object, for a file."""
    return {**facts, "results": [result.as_dict() for result in results]}
