"""What a run of minutes says: a failure as soon as it is there, and at the end what failed and what was not run."""

import os
from collections import defaultdict
from collections.abc import Generator

import pytest
from _pytest.terminal import TerminalReporter

_LENGTH = 400
"""Characters of a failure's message that are enough to know what happened."""
_FILES = 4
"""Files that are named for one reason to skip."""


class Reporting:
    """Writes to the terminal, beside pytest's own reporter; `scripts/test` turns that one's summary off (`-rN`)."""

    def __init__(self, terminal: TerminalReporter) -> None:
        self._terminal = terminal
        self._failures: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write what failed and why."""
        if report.failed:
            message = getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr))
            self._failures.append(f"{report.when}: {report.nodeid}: {' '.join(message.split())[:_LENGTH]}")
            self._terminal.ensure_newline()
            self._terminal.write_line(self._failures[-1], red=True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self) -> Generator[None]:
        """Write what was not run and why, and again what failed, after tracebacks and coverage."""
        yield
        if self._terminal.config.option.reportchars != "N":
            return
        for line in [*self._skipped(), *_left_out()]:
            self._terminal.write_line(line)
        for line in self._failures:
            self._terminal.write_line(f"FAILED {line}", red=True)

    def _skipped(self) -> list[str]:
        reasons: dict[str, list[str]] = defaultdict(list)
        for report in self._terminal.stats.get("skipped", []):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            reasons[reason.removeprefix("Skipped: ")].append(report.nodeid.partition("::")[0])
        lines = []
        for reason, files in sorted(reasons.items()):
            names = sorted(set(files))
            more = f" and {len(names) - _FILES} more files" if len(names) > _FILES else ""
            lines.append(f"SKIPPED {len(files)}: {reason} ({', '.join(names[:_FILES])}{more})")
        return lines


def _left_out() -> list[str]:
    """Say what `tests/distributed/conftest.py` does not even collect."""
    if os.environ.get("DISTRIBUTED_DATABASE_URL"):
        return []
    return ["not collected: tests/distributed, because DISTRIBUTED_DATABASE_URL names no Citus coordinator"]
