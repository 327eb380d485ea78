"""The account that PostgreSQL runs as; it refuses to run as root."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lib.binaries import Binaries, PostgresError


@dataclass(frozen=True)
class Account:
    """How to run a command of PostgreSQL's: behind a prefix, or as another user."""

    prefix: list[str] = field(default_factory=list)
    user: int | None = None

    def command(self, *words: str | Path) -> list[str | Path]:
        """Return the words to execute."""
        return [*self.prefix, *words]

    @property
    def group(self) -> int | None:
        """The user's own group."""
        return None if self.user is None else pwd.getpwuid(self.user).pw_gid

    @property
    def extra_groups(self) -> list[int] | None:
        """No other groups when root's are dropped."""
        return None if self.user is None else []


def choose(data: Path, binaries: Binaries) -> Account:
    """Choose the account for a data folder, which exists.

    Raises
    ------
    PostgresError
        When this is root, and there is no way not to be.
    """
    if os.geteuid() != 0:
        return Account()
    owner = data.stat().st_uid
    uid = owner or unprivileged()
    # A user namespace in which root's own files belong to somebody else: nothing is chowned.
    unshare = Account(["unshare", "--user", f"--map-user={uid}", "--"])
    if owner == 0 and shutil.which("unshare") and runs(unshare, data, binaries):
        return unshare
    os.chown(data, uid, -1)
    if runs(Account(user=uid), data, binaries):
        return Account(user=uid)
    os.chown(data, owner, -1)
    raise PostgresError(
        "PostgreSQL does not run as root, and on this machine it can neither use a user namespace nor "
        f"use {data} as another user: run this as an ordinary user, or set DATABASE_URL"
    )


def unprivileged() -> int:
    """Return a user that exists, since `initdb` looks its name up."""
    for name in ("postgres", "nobody", "daemon"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise PostgresError("PostgreSQL does not run as root, and there is no other user on this machine")


def runs(account: Account, data: Path, binaries: Binaries) -> bool:
    """Tell whether the account can run the binaries, and write to the folder."""
    # The folder by its whole path: as root one can stand where the account cannot go.
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
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
    except (OSError, KeyError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
