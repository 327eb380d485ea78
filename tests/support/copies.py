"""Copies of the repository, in which a test may change what it likes."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.service import ROOT, environment


def copy_repository(folder: Path) -> None:
    """Copy what git knows, or would."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)  # with its mode


def run(folder: Path, *arguments: str) -> str:
    """Run Python in the copy, and return what it printed."""
    return execute(folder, sys.executable, *arguments)


def git(folder: Path, *words: str, status: int = 0) -> str:
    """Run git as somebody who is not the developer, and return what it printed."""
    return execute(
        folder, "git", "-c", "user.name=tester", "-c", "user.email=tester@example.com", *words, status=status
    )


def execute(folder: Path, *command: str, status: int = 0) -> str:
    """Run a command in the copy, and return what it printed; it is to exit with `status`."""
    # The copy's own code, not this repository's, and without coverage.
    variables = {**environment(), "PYTHONPATH": str(folder), "RUFF_NO_CACHE": "true"}
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        variables.pop(name, None)
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == status, done.stdout
    return done.stdout
