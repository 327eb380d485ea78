"""Print, as JSON, what a process in the container sees and may do; `scripts/smoke-image` runs it there."""

import json
import os
import tempfile
from pathlib import Path

STRAYS = (".env", ".git", "tests", "docs", "deploy", "pyproject.toml", "requirements-dev.txt")


def status(name: str, base: int) -> int:
    """Read a number of `/proc/1/status`."""
    for line in Path("/proc/1/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1], base)
    raise KeyError(name)


def can_write(folder: str) -> bool:
    """Return whether a file can be created in a folder."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def main() -> None:
    """Print it."""
    command = Path("/proc/1/cmdline").read_bytes().decode().split("\0")[:-1]
    seen = {
        "uid": status("Uid", 10),
        "gid": status("Gid", 10),
        "capabilities": [status(name, 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no_new_privileges": status("NoNewPrivs", 10),
        "seccomp": status("Seccomp", 10),
        "writable": [folder for folder in ("/", "/app", "/opt/venv", "/etc", "/usr/bin", "/root") if can_write(folder)],
        "strays": [name for name in STRAYS if Path("/app", name).exists()],
        "process_1": command,
        "workers": len(Path("/proc/1/task/1/children").read_text().split()),
        "user": os.getuid(),
    }
    print(json.dumps(seen))


main()
