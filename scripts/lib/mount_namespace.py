"""Show folders to a user who may not pass their parents, such as /root: in a mount namespace, at the same paths."""

import ctypes
import os
from pathlib import Path

# <linux/sched.h>, <linux/mount.h>
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def show(folders: list[Path], uid: int, gid: int) -> None:
    """Give this process mounts of its own, in which the user can reach the folders.

    An empty file system covers the parent that the user may not pass, and the folders are mounted in it: nothing else
    of /root is visible. It needs root's rights (CAP_SYS_ADMIN), and ends with the last process in it.

    Raises
    ------
    OSError
        The system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("only Linux has mount namespaces")
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))  # nothing of it is seen outside
    hidden = {folder: barrier for folder in folders if (barrier := _barrier(folder, uid, gid))}
    opened = {folder: os.open(folder, os.O_PATH | os.O_CLOEXEC) for folder in hidden}
    for barrier in set(hidden.values()):
        _check(libc.mount(b"none", bytes(barrier), b"tmpfs", 0, b"mode=755,size=1m"))
    for folder, descriptor in opened.items():
        folder.mkdir(parents=True)
        source = f"/proc/self/fd/{descriptor}".encode()
        _check(libc.mount(source, bytes(folder), None, _MS_BIND | _MS_REC, None))


def _barrier(folder: Path, uid: int, gid: int) -> Path | None:
    """Return the first folder on the way that the user may not pass."""
    for parent in reversed(folder.parents):
        status = parent.stat()
        bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
        if not status.st_mode & bit:
            return parent
    return None


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
