"""The folder of the workers' metric files (see `app.core.observability.instruments`), created by the master.

The master and the workers that it forks hold a lock on it (`flock`). The kernel releases the lock when the last of them
exits, however it does; a folder that can be locked is therefore unused. A process id in its name would not do: ids are
reused, and containers that share `/dev/shm` have their own.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "service-metrics-"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only as the parent of a private folder
# Bytes that must be free there: a worker's files have less than 1 MiB.
_ROOM = 8 * 1024 * 1024


def memory_dir() -> Path:
    """Return a folder for small files that are written often: in memory if possible, not on a disk."""
    usable = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    return _SHARED_MEMORY if usable and _free(_SHARED_MEMORY) >= _ROOM else Path(tempfile.gettempdir())


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def prepare() -> Path:
    """Create an empty folder, or empty the one that the environment names; it is removed at exit.

    Returns
    -------
    Path
        The folder; `PROMETHEUS_MULTIPROC_DIR` names it from now on.
    """
    given = os.environ.get(VARIABLE, "")
    # A private one belongs to a running master whose environment was inherited (SIGUSR2).
    own = not given or Path(given).name.startswith(_PREFIX)
    if own:
        _prune(_SHARED_MEMORY)
        if (parent := memory_dir()) != _SHARED_MEMORY:
            _prune(parent)
        folder = _private(parent)
    else:
        folder = Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        _empty(folder)
    os.environ[VARIABLE] = str(folder)
    atexit.register(_at_exit, folder, own=own, owner=os.getpid())
    return folder


def _private(parent: Path) -> Path:
    """Create a folder that is locked before it has the name by which `_prune` finds it."""
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    # Never closed: it is the lock. It is not inherited through `exec`.
    fcntl.flock(os.open(new, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
    return new.rename(parent / f"{_PREFIX}{os.getpid()}-{new.name.removeprefix('.new-')}")


def _prune(parent: Path) -> None:
    """Remove the folders of masters that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or just removed by another starter
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(descriptor)


def _empty(folder: Path) -> None:
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


def _at_exit(folder: Path, *, own: bool, owner: int) -> None:
    if os.getpid() != owner:  # a worker inherits the exit handlers of its master
        return
    if own:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _empty(folder)
