"""What git knows of a copy of the template: which files, commits and merges are the template's."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def git(*words: str) -> str:
    """Run git, and return what it prints."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit("adopt: this is not a git work tree; run git init and commit first")
    return done.stdout


def merged_files(patterns: Iterable[str]) -> list[str]:
    """List the files that a merge added, so that files of the copy's own remain."""
    added = ("--first-parent", "--merges", "-m", "--diff-filter=A", "--no-renames", "--name-only", "--relative")
    return sorted(set(git("log", *added, "--format=", "--", *patterns).splitlines()) - {""})


def _adopted() -> str:
    """Find the commit with which the copy began."""
    return git("log", "--format=%H", "--diff-filter=A", "--", ".gitattributes").split()[-1]


def _merges() -> Iterator[tuple[str, str, str]]:
    """List the merges of releases, the newest first: the merge, the commit before it, the release."""
    adopted = _adopted()
    own = {adopted, *git("rev-list", "--ancestry-path", f"{adopted}..HEAD").split()}
    for line in git("log", "--first-parent", "--merges", "--format=%H %P").splitlines():
        merge, before, merged = line.split()[:3]
        if merged not in own:  # not a branch of the copy's
            yield merge, before, merged


def newest_changes() -> set[str]:
    """List the files that the newest merge of a release changed; all others are as the copy wrote them."""
    for merge, before, _ in _merges():
        return set(git("diff", "-z", "--name-only", "--no-renames", "--relative", before, merge).split("\0"))
    return set()


def template_files() -> set[str]:
    """List the files of the template: of the release that was adopted, and of those that were merged."""
    release = git("rev-list", "--first-parent", "--max-count=2", _adopted()).split()[-1]
    releases = [release, *(merged for *_, merged in _merges())]
    return {name for tree in releases for name in git("ls-tree", "-rz", "--name-only", tree).split("\0")}
