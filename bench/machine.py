"""CPU time and memory of processes, as the kernel reports them."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """List a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents():
        children.setdefault(parent, []).append(process)
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields:
            yield int(entry.name), int(fields[1])


def _stat(pid: int) -> list[str] | None:
    """Read the fields of proc_pid_stat(5) from the third, the state, on."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_seconds(pid: int) -> float:
    """Sum the CPU time of a process, its descendants, and children that have ended."""
    ticks = 0
    for member in tree(pid):
        fields = _stat(member)
        if fields:
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks * _TICK


@dataclass(frozen=True)
class Memory:
    """Memory of one process, in MB (10^6 bytes).

    Attributes
    ----------
    resident
        All its pages in memory.
    proportional
        The same, with what several processes share divided among them.
    """

    resident: float
    proportional: float


def memory(pid: int) -> Memory:
    """Measure a process."""
    sizes = {}
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes, *_ = line.split()
        sizes[name] = int(kilobytes) * 1024 / 1e6
    return Memory(sizes["Rss:"], sizes["Pss:"])


def describe() -> dict[str, object]:
    """Describe the machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in (_PROC / "cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Return the average number of runnable processes over the last minute."""
    return os.getloadavg()[0]
