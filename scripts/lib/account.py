"""The account that PostgreSQL runs as; it refuses to run as root."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lib import mount_namespace
from lib.binaries import Binaries, PostgresError


@dataclass(frozen=True)
class Account:
    """How to run a command of PostgreSQL: as another user, with access to some folders, or with a prefix."""

    user: int | None = None
    folders: list[Path] = field(default_factory=list)
    prefix: list[str] = field(default_factory=list)

    def command(self, *words: str | Path) -> list[str | Path]:
        """Return the words to execute."""
        return [*self.prefix, *words]

    def become(self) -> None:
        """Drop root's rights for good; runs in the new process, before the command."""
        if self.user is None:
            return
        folder = os.getcwd()  # noqa: PTH109 - `show` mounts over it, so it is entered again below
        group = pwd.getpwuid(self.user).pw_gid
        if self.folders:
            mount_namespace.show(self.folders, self.user, group)
        os.setgroups([])
        os.setgid(group)
        os.setuid(self.user)
        os.chdir(folder)


def choose(data: Path, binaries: Binaries) -> Account:
    """Choose the account for a data folder, which exists, and give it that folder.

    Raises
    ------
    PostgresError
        This process is root, and PostgreSQL can run as no other user.
    """
    if os.geteuid() != 0:
        return Account()
    owner = data.stat().st_uid
    uid = owner or unprivileged()
    if owner == 0:
        give(data, uid)
    for account in (Account(uid), Account(uid, folders=[data, binaries.folder.parent])):
        if runs(account, data, binaries):
            return account
    if owner == 0:
        give(data, 0)
        # In a user namespace, root's files belong to another user; outside of it the process is still root's.
        account = Account(prefix=["unshare", "--user", f"--map-user={uid}", "--"])
        if shutil.which("unshare") and runs(account, data, binaries):
            return account
    raise PostgresError(
        "PostgreSQL does not run as root, and on this machine it can neither use a user namespace nor "
        f"use {data} as another user: run this as an ordinary user, or set DATABASE_URL"
    )


def give(data: Path, uid: int) -> None:
    """Change the owner of the data, of the folder last: after an interruption, `choose` starts again."""
    for path in [*data.rglob("*"), data]:
        os.chown(path, uid, -1, follow_symlinks=False)


def unprivileged() -> int:
    """Return the id of an existing user; `initdb` needs its name."""
    for name in ("postgres", "nobody", "daemon"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise PostgresError("PostgreSQL does not run as root, and there is no other user on this machine")


def runs(account: Account, data: Path, binaries: Binaries) -> bool:
    """Return whether the account can run the binaries, and write to the folder."""
    # `cd` to the full path: root's working directory may be one that the account cannot enter.
    script = '[ "$(id -u)" != 0 ] && cd "$1" && [ -w . ] && exec "$0" --version'
    command = account.command("sh", "-c", script, binaries.folder / "postgres", data)
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=data,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            preexec_fn=account.become,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
