"""Programs for Node.js that tests run, with what npm installs for them."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.service import ROOT


def install(source: Path) -> Path:
    """Install a folder with a lock file below `.data/`, once; skip the test where that is not possible."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}, which {source.name} needs")
    folder = ROOT / ".data" / f"test-{source.name}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in parallel
        for file in source.iterdir():
            shutil.copy(file, folder)
        done, wanted = folder / "installed.json", source / "package-lock.json"
        if not done.exists() or done.read_bytes() != wanted.read_bytes():
            words = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
            result = subprocess.run(words, cwd=folder, capture_output=True, timeout=600, check=False)
            if result.returncode != 0:
                pytest.skip(f"npm cannot install {source.name}: {result.stderr.decode()[-300:]}")
            shutil.copy(wanted, done)
    return folder
