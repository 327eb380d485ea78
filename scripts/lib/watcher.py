"""Detects changed Python files, for `scripts/run --reload`."""

import time
from pathlib import Path

_PAUSE = 0.5  # seconds between two checks


class Watcher:
    """Compares the files below a folder with their state at the last check."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = self._scan()

    def _scan(self) -> dict[Path, int]:
        times = {}
        for file in self._folder.rglob("*.py"):
            try:
                times[file] = file.stat().st_mtime_ns
            except FileNotFoundError:  # an editor is replacing it
                continue
        return times

    def changed(self) -> bool:
        """Return whether a file was written, added or removed since the last call."""
        former, self._seen = self._seen, self._scan()
        return former != self._seen

    def wait(self) -> None:
        """Wait until a file has changed."""
        while not self.changed():
            time.sleep(_PAUSE)
