"""Make a copy of the template yours. Only the standard library: it runs before anything is installed."""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME = 40
"""Characters; a DNS label has at most 63, and some names get a suffix."""

TEMPLATE_ONLY = (
    "bench",
    "scripts/bench",
    "tests/bench",
    "tests/docs/guide.py",
    "tests/docs/test_guide.py",
    "tests/scripts/test_adopt.py",
)
ITEMS_ONLY = (
    "app/items",
    "docs/adr/0010-schemathesis-and-state.md",
    "docs/api.md",
    "schemathesis.toml",
    "scripts/lib/demo.py",
    "scripts/load-items",
    "scripts/load_items.py",
    "tests/contract",
    "tests/distributed/test_idempotency.py",
    "tests/distributed/test_paging.py",
    "tests/distributed/test_router.py",
    "tests/items",
)
CHANGELOG = """\
# Changelog

[Keep a Changelog](https://keepachangelog.com/en/1.1.0/); versions are [semantic](https://semver.org/spec/v2.0.0.html).

## Unreleased
"""
ATTRIBUTES = """\
# Yours, whatever a release of the template says; needs "git config merge.ours.driver true" (docs/upgrade.md).
CHANGELOG.md merge=ours
README.md merge=ours
"""
VERSION = "0.1.0"
# A block to remove, from "# items: begin" to "# items: end"; in Markdown, from "<!-- items: begin -->".
BLOCK = r"^[ \t]*(?:#|//|--|<!--) {kind}: begin\b.*\n(?:.*\n)*?[ \t]*(?:#|//|--|<!--) {kind}: end\b.*\n"
# How files that have no such blocks name items, and what is left of each line.
_MENTIONS = {
    "app/main.py": (
        (r"^from app\.items\b.*\n", ""),
        (r"^( *)if load\(InventorySettings\).*\n\1    .*\n", ""),
        (r"^ *app\.include_router\(items\.router\)\n", ""),
        (r"^(from app\.core\.config import Settings), load,", r"\1,"),
    ),
    "pyproject.toml": (
        (r'"app\.items \| ', '"'),
        (r'^    "app\.items",\n', ""),
        (r'"app\.items", ', ""),
    ),
    "README.md": (
        (r"^  items/ .*\n", ""),
        (r"^4\. `scripts/adopt .*\n5\.", "4."),
        (r"^\| `INVENTORY_URL` .*\n", ""),
        (r", load-items,", ","),
        (r"; --demo fills in some data", ""),
    ),
    "CONTRIBUTING.md": ((r"^\| load data into it .*\n", ""), (r", and `docs/api.md` against a running service", "")),
    "docs/upgrade.md": ((r", `docs/api.md` \|", " |"),),
    ".env.example": ((r"^# .*\n# INVENTORY_URL=\n\n", ""),),
    "docker-compose.yml": ((r"^ +INVENTORY_URL: .*\n", ""),),
    "scripts/issue_token.py": (
        (r"; default: every scope of items", ""),
        (r' or \["items:read", "items:write"\]', " or []"),
    ),
}
LINK = re.compile(r"\[([^]]*)\]\((?!\w+:|#)([^)#\s]+)(?:#[^)]*)?\)")
ROW = re.compile(r"^\s*(\||[-*] |\d+\. )")


def main() -> None:
    """Adopt, or exit with a message of one line."""
    arguments = _arguments()
    old = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    if old == arguments.name and not (arguments.without_items and (ROOT / "app/items").exists()):
        print(f"adopt: this is {old} already")
        return
    if _git("status", "--porcelain"):
        sys.exit("adopt: there are uncommitted changes; commit or stash them first")
    first = (ROOT / "bench").exists()
    gone = {"template", "items"} if arguments.without_items else {"template"}
    _remove(TEMPLATE_ONLY)
    if arguments.without_items:
        _remove((*ITEMS_ONLY, *_items_migrations()))
    for file in _text_files():
        _rewrite(file, old, arguments.name, gone)
    if first:
        (ROOT / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
        (ROOT / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
        _set_version()
    print(f"adopt: {old} is now {arguments.name}. Next: git diff, scripts/test, git commit.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/adopt", description=__doc__)
    parser.add_argument("name", help="of your service, for example orders-service")
    parser.add_argument("--without-items", action="store_true", help="remove the sample resource, too")
    arguments = parser.parse_args()
    if not NAME.fullmatch(arguments.name) or len(arguments.name) > MAX_NAME:
        sys.exit(
            f"adopt: invalid name {arguments.name!r}: use lower-case letters, digits and single dashes,"
            f" a letter first, at most {MAX_NAME} characters"
        )
    return arguments


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit("adopt: this is not a git work tree; run git init and commit first")
    return done.stdout


def _remove(names: Iterable[str]) -> None:
    for name in names:
        path = ROOT / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _text_files() -> Iterator[Path]:
    for name in _git("ls-files", "-z").split("\0"):
        path = ROOT / name
        if name and path.is_file() and b"\0" not in path.read_bytes()[:8192]:
            yield path


def _spellings(name: str) -> list[str]:
    """List the ways to write a name: with dashes, underscores, as a title, as words, as the name of a class."""
    words = name.split("-")
    return [name, "_".join(words), " ".join(words).capitalize(), " ".join(words), "".join(map(str.capitalize, words))]


def _rewrite(file: Path, old: str, new: str, gone: set[str]) -> None:
    text = before = file.read_text(encoding="utf-8")
    for kind in gone:
        text = re.sub(BLOCK.format(kind=kind), "", text, flags=re.MULTILINE)
    for theirs, ours in zip(_spellings(old), _spellings(new), strict=True):
        text = re.sub(rf"(?<!\w){re.escape(theirs)}(?![a-z0-9])", ours, text)
    if file.suffix == ".md":
        text = text.replace("`scripts/bench`", "the benchmark of the template")
        text = "".join(line for line in text.splitlines(keepends=True) if not _has_dead_link(file, line))
        text = LINK.sub(lambda link: link[0] if _exists(file, link[2]) else link[1], text)
    if "items" in gone:
        text = _without_items(file, text)
    if text != before:
        file.write_text(text, encoding="utf-8")


def _has_dead_link(file: Path, line: str) -> bool:
    """Return whether a row of a table or a list links to a file that is gone."""
    return bool(ROW.match(line)) and not all(_exists(file, link[2]) for link in LINK.finditer(line))


def _exists(file: Path, target: str) -> bool:
    return (file.parent / target).exists()


def _items_migrations() -> list[str]:
    """List the migrations that make or change the table of items."""
    folder = ROOT / "alembic" / "versions"
    return [str(path.relative_to(ROOT)) for path in folder.glob("*_items*.py")]


def _without_items(file: Path, text: str) -> str:
    """Remove what files say about items outside of the marked blocks, which are removed already."""
    if file.parent == ROOT / "alembic" / "versions":
        return _relink(text)
    for pattern, left in _MENTIONS.get(str(file.relative_to(ROOT)), ()):
        text = re.sub(pattern, left, text, flags=re.MULTILINE)
    return text


def _relink(text: str) -> str:
    """Make a migration follow the last one that is left before it."""
    known = {path.name[:4] for path in (ROOT / "alembic" / "versions").glob("[0-9]*.py")}
    match = re.search(r'^down_revision\b.*= "(\d+)"$', text, re.MULTILINE)
    if match is None or match[1] in known:
        return text
    earlier = max((revision for revision in known if revision < match[1]), default=None)
    return (
        text[: match.start()] + re.sub(r'"\d+"', f'"{earlier}"' if earlier else "None", match[0]) + text[match.end() :]
    )


def _set_version() -> None:
    for name, line, value in (
        ("pyproject.toml", "version", f'"{VERSION}"'),
        ("pyproject.toml", "first", "1001"),  # migrations: those of the template have lower numbers
        ("app/__init__.py", "__version__", f'"{VERSION}"'),
    ):
        path = ROOT / name
        text = re.sub(rf"^{line} = .*$", f"{line} = {value}", path.read_text("utf-8"), count=1, flags=re.MULTILINE)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
