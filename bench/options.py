"""What is measured: the options of the command, and the cells of its table."""

import argparse
import os
from pathlib import Path
from typing import Any

from bench.contenders import CHOICES, Contender, peers
from bench.load import Load
from bench.report import Cell

_DESCRIPTION = "Measure the service and its peers side by side, on one PostgreSQL (docs/performance.md)."
ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = (
    *("get", "create", "create_once", "list", "list_deep", "patch", "patch_if_match", "mixed"),
    *CHOICES,
)
# Workloads for which the number of connections matters most; the others are measured at 32.
_AT_ALL = ("get", "create")


def parse() -> argparse.Namespace:
    """Parse the command's arguments."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=_DESCRIPTION)
    words: dict[str, Any] = {"type": lambda text: text.split(","), "metavar": "A,B,..."}
    parser.add_argument("--workloads", default=list(WORKLOADS), help=f"{', '.join(WORKLOADS)}; hot", **words)
    parser.add_argument("--connections", help="by default 32, and for get and create also 1 and 256", **words)
    parser.add_argument("--workers", default=[str(os.cpu_count())], help="by default one for each core", **words)
    names = ["ours", *peers(Path()), "token"]
    parser.add_argument("--services", default=names, help=f"{', '.join(names)}; ours comes first", **words)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER", help="another checkout of ours")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement; a warm-up comes on top")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--wire", action="store_true", help="count round trips, too, in a run of their own")
    parser.add_argument("--data", type=Path, default=ROOT / ".data" / "bench", help="a folder (%(default)s)")
    parser.add_argument("--out", type=Path, help="where performance.json and performance.svg go (the data's folder)")
    return parser.parse_args()


def cells(arguments: argparse.Namespace, workers: int) -> list[Cell]:
    """List what is measured with this number of workers."""
    found = []
    for workload in arguments.workloads:
        usual = ["1", "32", "256"] if workload in _AT_ALL else ["32"]
        found += [Cell(Load(workload, int(number)), workers) for number in arguments.connections or usual]
    return found


def takes_part(contender: Contender, cell: Cell) -> bool:
    """Return whether a service is measured in a cell."""
    workload = cell.load.workload
    return workload in contender.workloads if contender.workloads else workload not in CHOICES
