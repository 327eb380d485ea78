"""Whether a Python file of the service has changed, for `scripts/run --reload`."""

import time
from pathlib import Path

_PAUSE = 0.5  # seconds between two looks


class Watcher:
    """Compares the files below a folder with what they were at the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = self._look()

    def _look(self) -> dict[Path, int]:
        times = {}
        for file in self._folder.rglob("*.py"):
            try:
                times[file] = file.stat().st_mtime_ns
            except FileNotFoundError:  # an editor replaces it just now
                continue
        return times

    def changed(self) -> bool:
        """Tell whether anything was written, added or removed since the last call."""
        former, self._seen = self._seen, self._look()
        return former != self._seen

    def wait(self) -> None:
        """Wait until something has."""
        while not self.changed():
            time.sleep(_PAUSE)
