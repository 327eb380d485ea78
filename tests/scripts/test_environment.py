"""`.venv` follows the requirements files: what is no longer listed goes, and nothing else is installed again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

SCRIPT = Path("scripts/lib/environment.py")


def call(folder: Path, python: Path | str, *words: str, status: int = 0) -> str:
    command = [str(python), "-I", str(folder / SCRIPT), *words]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_package_that_is_no_longer_listed_is_removed_from_the_same_environment(tmp_path: Path) -> None:
    """Without a package index: the package is written where pip would install it."""
    (tmp_path / SCRIPT).parent.mkdir(parents=True)
    shutil.copy(ROOT / SCRIPT, tmp_path / SCRIPT)
    (tmp_path / "one.txt").write_text("# nothing\n")
    assert "making .venv" in call(tmp_path, sys.executable, "make", "one.txt")
    python = tmp_path / ".venv/bin/python"
    package = next((tmp_path / ".venv/lib").glob("python*/site-packages")) / "old_name-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: old.name\nVersion: 1\n")
    (package / "RECORD").write_text(f"{package.name}/METADATA,,\n{package.name}/RECORD,,\n")
    (tmp_path / "one.txt").write_text("# still nothing\n")
    call(tmp_path, python, "check", "one.txt", status=3)

    said = call(tmp_path, sys.executable, "make", "one.txt")

    assert "removing from .venv: old.name" in said
    assert "making .venv" not in said
    assert not package.exists()
    call(tmp_path, python, "check", "one.txt")
