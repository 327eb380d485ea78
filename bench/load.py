"""The load: wrk, with `load.lua`."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

_SCRIPT = Path(__file__).with_name("load.lua")
_seeds = count(int.from_bytes(os.urandom(4)))


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes
    ----------
    workload
        Its name in `load.lua`.
    connections
        How many are open at the same time; each sends one request after the other.
    """

    workload: str
    connections: int


@dataclass(frozen=True)
class Outcome:
    """Results of wrk; durations in microseconds; `failed` includes every status of 400 or more."""

    requests: int
    duration: int
    p50: int
    p99: int
    p999: int
    max: int
    failed: int


def drive(url: str, load: Load, seconds: float, *, rows: int, cursors: Sequence[str] = (), token: str = "") -> Outcome:
    """Send `load` for some seconds."""
    words = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds:.0f}s", "--timeout", "20s", "-s", str(_SCRIPT), url]
    variables = {
        "WORKLOAD": load.workload,
        "ROWS": str(rows),
        "CURSORS": ",".join(cursors),
        "SEED": str(next(_seeds)),
        "TOKEN": token,
    }
    result = subprocess.run(  # noqa: S603
        words, check=True, capture_output=True, text=True, timeout=seconds + 60, env={**os.environ, **variables}
    )
    return Outcome(**json.loads(result.stdout.splitlines()[-1]))
