"""Give a copy of the template its name, and remove what only the template needs.

Only the standard library is used, since this runs before anything is installed.
"""

import argparse
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path

from lib.history import git, merged_files, newest_changes, template_files

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "-".join(("items", "service"))  # noqa: FLY002 - as one word it would be replaced in a copy
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME = 40
"""Characters; a DNS label has at most 63, and some names get a suffix."""

REMOVED = {
    "template": (
        "bench",
        "scripts/bench",
        "tests/bench",
        "tests/docs/guide.py",
        "tests/docs/test_guide.py",
        "tests/scripts/test_adopt.py",
    ),
    "items": (
        "alembic/versions/0*_items*.py",  # numbers from 1001 on are the copy's own
        "app/items",
        "docs/adr/0010-schemathesis-and-state.md",
        "docs/items.md",
        "schemathesis.toml",
        "scripts/lib/demo.py",
        "scripts/load-items",
        "scripts/load_items.py",
        "tests/contract",
        "tests/distributed/test_idempotency.py",
        "tests/distributed/test_paging.py",
        "tests/distributed/test_router.py",
        "tests/items",
    ),
}
CHANGELOG = """\
# Changelog

[Keep a Changelog](https://keepachangelog.com/en/1.1.0/); versions are [semantic](https://semver.org/spec/v2.0.0.html).

## Unreleased
"""
ATTRIBUTES = """\
# What a merge of a release leaves as yours, and what it takes whole; docs/upgrade.md has the settings that it needs.
CHANGELOG.md merge=ours
README.md merge=ours
requirements*.txt merge=theirs
"""
VERSION = "0.1.0"
# From "# items: begin" to "# items: end" (in Markdown, from "<!-- items: begin -->"), and one of two blank lines.
_MARK = r"[ \t]*(?:#|//|--|<!--) {kind}: "
BLOCK = rf"((?<=\n\n))?^{_MARK}begin\b.*\n(?:.*\n)*?{_MARK}end\b.*\n(?(1)\n?)"
# How files that have no such blocks name items, and what is left of each line.
_MENTIONS = {
    "app/main.py": (
        (r"^from app\.items\b.*\n", ""),
        (r"^( *)if load\(InventorySettings\).*\n\1    .*\n", ""),
        (r"^ *app\.include_router\(items\.router\)\n", ""),
        (r"^(from app\.core\.config import Settings), load,", r"\1,"),
    ),
    "pyproject.toml": ((r"^    \| items\n", ""), (r'^    "(hypothesis|schemathesis)",\n', "")),
    "README.md": (
        (r"^  items/ .*\n", ""),
        (r"; --demo fills in some data", ""),
        (r"items:read(.*)/items$", r"orders:read\1/orders"),  # the resource of the next section
    ),
    "scripts/run": ((r"^# +scripts/run --demo .*\n", ""),),
    "scripts/serve.py": ((r"^ +scripts/run --demo .*\n", ""),),
    "docs/configuration.md": ((r"^\| `INVENTORY_URL` .*\n", ""),),
    ".env.example": ((r"\n# .*\n# INVENTORY_URL=\n", ""),),
    "docs/deploy.md": ((r" the inventory\nservice's pods,", ""),),
    "docker-compose.yml": ((r"^ +INVENTORY_URL: .*\n", ""),),
}
LINK = re.compile(r"\[([^]]*)\]\((?!\w+:|#)([^)#\s]+)(?:#[^)]*)?\)")
ROW = re.compile(r"^\s*(\||[-*] |\d+\. )")


def main() -> None:
    """Adopt, or exit with a message of one line."""
    arguments = _arguments()
    if git("status", "--porcelain"):
        sys.exit("adopt: there are uncommitted changes; commit or stash them first")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    old, before = project["project"]["name"], frozenset(project["tool"]["adopt"]["removed"])
    gone = before | {"template"} | ({"items"} if arguments.without_items else set())
    for kind in gone:
        _remove(merged_files(REMOVED[kind]) if kind in before else REMOVED[kind])
    _rewrite_all(old, arguments.name, before, gone)
    if not before:
        _start(arguments.name)
    _set("pyproject.toml", "removed", str(sorted(gone)).replace("'", '"'))
    git("add", "--all")
    _report(old, arguments.name, gone - before)


def _rewrite_all(old: str, new: str, before: frozenset[str], gone: frozenset[str]) -> None:
    """Rewrite what is the template's, or was brought by its newest release; a new name is written everywhere."""
    brought = newest_changes() if before else set()
    theirs = template_files() if before and gone != before else brought
    for file in _text_files():
        name = str(file.relative_to(ROOT))
        has_old = old != new or not before or name in brought
        _rewrite(
            file, _names(file, old, new) if has_old else set(), new, gone if not before or name in theirs else set()
        )


def _report(old: str, new: str, kinds: frozenset[str]) -> None:
    """Say what is done, and what comes next."""
    if not (changes := git("diff", "--cached", "--name-status", "--no-renames").splitlines()):
        print(f"adopt: this is {new} already, and there is nothing to remove")
        return
    said = [f"{old} is now {new}"] if old != new else []
    said += ["items are removed"] if "items" in kinds else []
    said += ["LICENSE keeps the copyright of the template"] if "template" in kinds else []
    for status, what in (("D", "removed"), ("M", "changed")) if old == new and not kinds else ():
        files = [change[2:] for change in changes if change.startswith(status) and change[2:] != "pyproject.toml"]
        said += [f"{what}: {', '.join(files)}"] if files else []
    print(f"adopt: {'; '.join(said) or 'what the merge brought is adapted'}.")
    lock = "scripts/lock, " if "items" in kinds else ""  # fewer tools are needed
    print(f"Everything is staged. Next: git diff --cached, {lock}scripts/test, git commit.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/adopt",
        description="Give this copy of the template its name, and remove what only the template needs. "
        "Run it again after each merge of a release.",
    )
    parser.add_argument("name", nargs="?", help="of your service, for example orders-service")
    parser.add_argument("--without-items", action="store_true", help="remove the sample resource, too")
    arguments, unknown = parser.parse_known_args()
    arguments.name = unknown[0] if unknown else arguments.name or ""
    if not NAME.fullmatch(arguments.name) or len(arguments.name) > MAX_NAME:
        sys.exit(
            f"adopt: invalid name {arguments.name!r}: use lower-case letters, digits and single dashes,"
            f" a letter first, at most {MAX_NAME} characters"
        )
    return arguments


def _remove(patterns: Iterable[str]) -> None:
    for path in [path for pattern in patterns for path in ROOT.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
            continue
        path.unlink()
        while not any((path := path.parent).iterdir()):
            path.rmdir()


def _text_files() -> Iterator[Path]:
    for name in git("grep", "-Ilz", "").split("\0"):
        if (path := ROOT / name).is_file():
            yield path


def _names(file: Path, old: str, new: str) -> set[str]:
    """List the names that the new one replaces: the template's stays in its copyright, and in what the copy wrote."""
    kept = {"LICENSE"} if old == TEMPLATE else {"LICENSE", "README.md", "CHANGELOG.md"}
    names = {old} if TEMPLATE in f"{old} {new}" else {old, TEMPLATE}
    return names - ({TEMPLATE} if str(file.relative_to(ROOT)) in kept else set())


def _spellings(name: str) -> list[str]:
    """List the ways to write a name: with dashes, underscores, as a title, as words, as the name of a class."""
    words = name.split("-")
    return [name, "_".join(words), " ".join(words).capitalize(), " ".join(words), "".join(map(str.capitalize, words))]


def _rewrite(file: Path, names: set[str], new: str, gone: AbstractSet[str]) -> None:
    """Replace the names; in a file of the template also remove what it says of what is gone."""
    text = before = file.read_text(encoding="utf-8", errors="surrogateescape")
    for kind in gone:
        text = re.sub(BLOCK.format(kind=kind), "", text, flags=re.MULTILINE)
    for old in names:
        for theirs, ours in zip(_spellings(old), _spellings(new), strict=True):
            text = re.sub(rf"(?<!\w){re.escape(theirs)}(?![a-z0-9])", ours, text)
    if gone and file.suffix == ".md":
        text = text.replace(" (`scripts/bench`)", "")
        text = "".join(_without_dead_links(file, line) for line in text.splitlines(keepends=True))
    if "items" in gone:
        text = _without_items(file, text)
    if text != before:
        file.write_text(text, encoding="utf-8", errors="surrogateescape")


def _without_dead_links(file: Path, line: str) -> str:
    """Keep the text of links to files that are gone; a row of a table or a list goes if it has no other links."""
    dead = [link for link in LINK.finditer(line) if not (file.parent / link[2]).exists()]
    if dead and ROW.match(line) and len(dead) == len(LINK.findall(line)):
        return ""
    for link in dead:
        line = line.replace(f"{link[0]}, ", "").replace(f", {link[0]}", "").replace(link[0], link[1])
    return line


def _without_items(file: Path, text: str) -> str:
    """Remove what files say about items outside of the marked blocks, which are removed already."""
    if file.parent == ROOT / "alembic" / "versions":
        return _relink(text)
    own = (ROOT / "app/items").exists()  # a resource that the copy wrote after the sample was removed
    for pattern, left in () if own else _MENTIONS.get(str(file.relative_to(ROOT)), ()):
        text = re.sub(pattern, left, text, flags=re.MULTILINE)
    return text


def _relink(text: str) -> str:
    """Make a migration follow the last one that is left before it."""
    known = {path.name[:4] for path in (ROOT / "alembic" / "versions").glob("[0-9]*.py")}
    match = re.search(r'^down_revision\b.*= "(\d+)"$', text, re.MULTILINE)
    if match is None or match[1] in known:
        return text
    earlier = max((revision for revision in known if revision < match[1]), default=None)
    return text.replace(match[0], re.sub(r'"\d+"', f'"{earlier}"' if earlier else "None", match[0]))


def _start(name: str) -> None:
    """Write what is the copy's own from now on."""
    (ROOT / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    (ROOT / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
    licence = (ROOT / "LICENSE").read_text("utf-8")
    line = rf"\g<0>Copyright (c) {datetime.now(UTC).year} The {name} authors\n"
    (ROOT / "LICENSE").write_text(re.sub(r"(?m)^Copyright .*\n", line, licence, count=1), encoding="utf-8")
    _set("pyproject.toml", "version", f'"{VERSION}"')
    _set("pyproject.toml", "first", "1001")  # migrations: those of the template have lower numbers
    _set("app/__init__.py", "__version__", f'"{VERSION}"')
    for key in ("newTag", "app.kubernetes.io/version"):
        _set("deploy/kubernetes/overlays/production/kustomization.yaml", key, VERSION)


def _set(file: str, key: str, value: str) -> None:
    path = ROOT / file
    line = rf"^( *{re.escape(key)}(?: =|:)) .*$"
    text = re.sub(line, rf"\1 {value}", path.read_text("utf-8"), count=1, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
