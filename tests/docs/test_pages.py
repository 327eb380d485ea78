"""Every page: its links lead somewhere, its commands are there, and what it says of the service is so."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.service import ROOT
from tests.support.settings import all_fields

_LISTED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split()
PAGES = sorted(ROOT / name for name in set(_LISTED) if (ROOT / name).is_file())
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a page may ask for that a laptop need not have.
_ELSEWHERE = {"apt", "docker", "gh", "helm", "jq", "kubectl", "pg_dump", "pg_restore", "podman", "pre-commit", "psql"}
_BUILT_IN = {"cd", "curl", "echo", "export", "git", "openssl", "sort", "head", "uniq", "sed", "grep", "wrk", "kill"}


def name_of(page: Path) -> str:
    """Name a page as it is linked to."""
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """Read a page without its code."""
    return re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Name the headings as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def links(page: Path) -> Iterator[str]:
    """List where a page's links lead."""
    for text, target in re.findall(r"\[([^]]*)\]\(([^)\s]+)\)", prose(page)):
        assert text, f"a link without a text: {target}"
        yield unquote(target)


def commands(page: Path) -> Iterator[list[str]]:
    """List the simple commands of a page's shell blocks, as words."""
    for language, block in _FENCE.findall(page.read_text()):
        if language not in {"sh", "bash", "shell"}:
            continue
        subprocess.run(["bash", "-n"], input=block, text=True, check=True, timeout=120)
        for line in block.replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # it goes on in the next line; `bash -n` has read it as a whole
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), f"{name_of(page)} leads to {target}"
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.is_relative_to(ROOT), f"{name_of(page)} leads out: {link}"
        assert file.exists(), f"{name_of(page)} leads nowhere: {link}"
        assert not anchor or anchor in anchors(file), f"{name_of(page)} has no such place: {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    """Of this repository's folders; a name with a pattern is none, and the guide writes its own."""
    named = re.findall(r"`((?:app|tests|scripts|docs|alembic|deploy|bench)/[\w./-]+)`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]

    assert [name for name in missing if "order" not in name and "items." not in name] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_there(page: Path) -> None:
    for words in commands(page):
        program = words[0].removeprefix("./")
        if program.startswith((".venv/bin/", ".ci/", "scripts/")):
            assert program.startswith(".venv/") or os.access(ROOT / program, os.X_OK), program
        else:
            assert program in _ELSEWHERE | _BUILT_IN or shutil.which(program), f"{name_of(page)}: {shlex.join(words)}"


@pytest.mark.parametrize("script", ["migrate", "load-items"])
def test_every_verb_and_option_of_a_script_is_there(script: str) -> None:
    source = "".join(file.read_text() for file in (ROOT / "scripts").glob(script.replace("-", "_") + ".py"))
    text = "".join(page.read_text() for page in PAGES)
    used = set(re.findall(rf"scripts/{script} ([a-z]+)\b", text)) if script == "migrate" else set()
    used |= set(re.findall(rf"scripts/{script} (?:[\w.]+ )*(--[a-z]+)", text))

    assert [word for word in used if f'"{word}"' not in source] == []


def test_the_configuration_page_has_every_variable_and_its_default() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    said: dict[str, str] = {}
    for names, defaults in rows:
        variables = re.findall(r"`(\w+)`", names)
        parts = defaults.split(", ")
        said |= zip(variables, parts if len(parts) == len(variables) else [""] * len(variables), strict=True)

    assert said.keys() == {name.upper() for name in all_fields()}
    for name, field in all_fields().items():
        if isinstance(field.default, bool):
            assert said[name.upper()] == str(field.default).lower()
        elif isinstance(field.default, int | float):
            assert float(said[name.upper()]) == field.default, name
        elif isinstance(field.default, str):
            assert said[name.upper()] == field.default
