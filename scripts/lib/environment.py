"""Make `.venv` from the locked requirements, so that an interrupted installation is never used.

``environment.py check FILE...`` is run by the environment's own Python and exits with 0 when the
files are installed. ``environment.py make FILE...`` is run by the Python that is to be its base.
Only the standard library: there is nothing else yet.
"""

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
# Lists what the environment contains. Removed before a change and written after it: without it, the environment is
# incomplete.
STAMP = VENV / "installed.json"
PYTHON = str(VENV / "bin" / "python")
LOCK = ROOT / ".data" / "environment.lock"
LOCK_TIMEOUT = 900.0  # seconds; another process may be downloading the same packages

READY, INCOMPLETE, UNSOUND = 0, 3, 4


def identity() -> str:
    """Return what an environment depends on: its folder and its Python."""
    return f"{VENV} {sys.version}"


def digest(file: str) -> str:
    """Hash a requirements file of the repository; one that is gone has no hash."""
    path = ROOT / file
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def check(files: list[str]) -> int:
    """Compare the stamp with this Python, this folder and these files."""
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
        if stamp.pop("identity") != identity():
            return UNSOUND
    except (OSError, ValueError, KeyError):
        return UNSOUND
    return READY if all(digest(file) == stamp.get(file) for file in {*files, *stamp}) else INCOMPLETE


def state(files: list[str]) -> int:
    """Check the environment with its own Python, which may not even start."""
    command = [PYTHON, "-I", __file__, "check", *files]
    try:
        code = subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode
    except OSError:
        return UNSOUND
    return code if code in {READY, INCOMPLETE} else UNSOUND


def make(files: list[str]) -> None:
    """Install the files, in a new environment unless only packages differ."""
    with locked():
        found = state(files)
        if found == READY:
            return
        files = [*files, *(file for file in installed() if file not in files)]
        if found == UNSOUND:
            rebuild()
        stamp: dict[str, str] = json.loads(STAMP.read_text())
        STAMP.unlink()
        if any(stamp.get(file) not in {None, digest(file)} for file in files):
            remove_unlisted(files)
        for file in files:
            if stamp.get(file) != digest(file):
                install(file)
        stamp = {"identity": stamp["identity"], **{file: digest(file) for file in files}}
        STAMP.write_text(json.dumps(stamp, indent=1))


def installed() -> list[str]:
    """List the files that the environment contains, so that a new one contains them too."""
    try:
        return [file for file in json.loads(STAMP.read_text()) if (ROOT / file).is_file()]
    except (OSError, ValueError):
        return []


def rebuild() -> None:
    """Create an empty environment with pip, in place of a stale or incomplete one."""
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    print(f"making .venv with Python {sys.version.split()[0]}", flush=True)
    venv.create(VENV, with_pip=True, symlinks=True)
    command = [PYTHON, "-I", __file__, "stamp"]
    subprocess.run(command, check=True)


def listed(file: str) -> list[str]:
    """List the packages that a file names."""
    return re.findall(r"^([\w.-]+)(?:\[.*\])?==", (ROOT / file).read_text(), re.MULTILINE)


def remove_unlisted(files: list[str]) -> None:
    """Uninstall what none of the files names any more; pip is not in them."""
    found = subprocess.run([PYTHON, "-I", "-m", "pip", "list", "--format=json"], check=True, stdout=subprocess.PIPE)
    kept = {"pip", *(re.sub(r"[-_.]+", "-", name).lower() for file in files for name in listed(file))}
    names = {package["name"] for package in json.loads(found.stdout)}
    extra = sorted(name for name in names if re.sub(r"[-_.]+", "-", name).lower() not in kept)
    if extra:
        print(f"removing from .venv: {', '.join(extra)}", flush=True)
        subprocess.run([PYTHON, "-I", "-m", "pip", "uninstall", "--quiet", "--yes", *extra], check=True)


def install(file: str) -> None:
    """Install one file, with hashes and without resolving dependencies: it is complete."""
    number = len(listed(file))
    print(f"installing {file} into .venv: {number} packages", flush=True)
    command = [PYTHON, "-I", "-m", "pip", "install", "--no-color", "--progress-bar", "off"]
    command += ["--require-hashes", "--no-deps", "-r", str(ROOT / file)]
    collected = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:
        assert pip.stdout is not None  # noqa: S101 - it is a pipe
        for line in pip.stdout:
            collected += line.startswith("Collecting ")
            show_progress(collected, number)
    if sys.stdout.isatty():
        print(flush=True)
    if pip.returncode != 0:
        raise subprocess.CalledProcessError(pip.returncode, command)


def show_progress(done: int, number: int) -> None:
    """Draw a progress bar on a terminal."""
    if sys.stdout.isatty():
        filled = 30 * done // max(number, 1)
        print(f"\r  [{'#' * filled}{' ' * (30 - filled)}] {done}/{number}", end="", flush=True)


@contextmanager
def locked() -> Iterator[None]:
    """Serialise scripts that start at the same time; the lock of a killed process is released."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("a") as lock:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while not try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                sys.exit(f"another script has been installing for {LOCK_TIMEOUT:.0f} s")
            time.sleep(0.2)
        yield


def try_lock(descriptor: int) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(verb: str, files: list[str]) -> int:
    """Do one of the three things."""
    if verb == "check":
        return check(files)
    if verb == "stamp":
        STAMP.write_text(json.dumps({"identity": identity()}))
        return 0
    try:
        make(files)
    except OSError as error:
        print(f"cannot make {VENV}: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{Path(error.cmd[0]).name} failed with exit code {error.returncode}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
