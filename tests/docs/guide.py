"""Reads `docs/add-a-resource.md` and follows it in a copy of the repository."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.copies import copy_repository, run
from tests.support.service import ROOT

__all__ = ["copy_repository", "follow", "run"]

PAGE = ROOT / "docs" / "add-a-resource.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:# |--- )((?:in )?[\w./]+\.(?:py|toml))\n")
# The scripts make `.venv` first; what they run in it is run by the Python that runs the tests.
_SCRIPTS = {"scripts/migrate": ["scripts/migrate.py"], "scripts/test": ["-m", "pytest", "-p", "no:cacheprovider"]}


@dataclass(frozen=True)
class Block:
    """A code block: its language, the file that its first line names, and the rest."""

    language: str
    file: str | None
    text: str


def blocks() -> Iterator[Block]:
    """Read the page's blocks in order."""
    for language, text in _BLOCK.findall(PAGE.read_text()):
        named = _FILE.match(text)
        yield Block(language, named[1] if named else None, text[named.end() :] if named else text)


def follow(folder: Path) -> list[str]:
    """Do what the page says, block by block; return what its commands printed."""
    said = []
    for block in blocks():
        if block.language == "python" and block.file and block.file.startswith("in "):
            assert block.text in (folder / block.file.removeprefix("in ")).read_text()
        elif block.language == "python" and block.file:
            target = folder / block.file
            assert not target.exists(), f"the guide writes {block.file} over"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.language == "diff" and block.file:
            _apply(folder / block.file, block.text)
        else:
            assert block.language == "sh", f"nobody knows what to do with {block}"
            said += [_command(folder, line) for line in block.text.splitlines()]
    return said


def _apply(file: Path, diff: str) -> None:
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    text = file.read_text()
    assert text.count(before) == 1, f"{file.name} is not what the guide takes it for"
    file.write_text(text.replace(before, after))


def _command(folder: Path, line: str) -> str:
    script, _, rest = line.partition(" ")
    words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', rest)]
    return run(folder, *_SCRIPTS[script], *words)
