"""No secret in the tree, scripts that shellcheck passes, licences that are known."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT, Run

SECRETS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    rb"|\bgh[pousr]_[0-9A-Za-z]{36}\b|\bgithub_pat_[0-9A-Za-z_]{60}"
    rb"|\bglpat-[0-9A-Za-z_-]{20}\b"
    rb"|\bxox[abprs]-[0-9A-Za-z-]{20}"  # Slack
    rb"|\bAIza[0-9A-Za-z_-]{35}\b"  # Google
    rb"|\bsk_live_[0-9A-Za-z]{20}"  # Stripe
    rb"|\bpypi-[0-9A-Za-z_-]{50}"
    rb"|\beyJ[0-9A-Za-z_-]{20,}\.eyJ[0-9A-Za-z_-]{20,}\."  # a JSON web token
)
# What obliges whoever ships the image to more than a notice.
UNWANTED = re.compile(r"\b(A?GPL|GNU (Affero )?General|SSPL|BUSL|not declared)", re.IGNORECASE)


def files() -> Iterator[Path]:
    """List what git has, and what it would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=240)
    if done.returncode != 0:
        pytest.skip("this is no git work tree")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return (path for path in paths if path.is_file())


def test_there_is_no_secret_in_the_tree() -> None:
    assert [str(path) for path in files() if SECRETS.search(path.read_bytes())] == []


def test_no_environment_file_is_in_the_tree() -> None:
    assert [path.name for path in files() if path.name.startswith(".env")] == [".env.example"]


def test_shellcheck_finds_nothing(tool: Run) -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    assert len(scripts) > 4
    tool("shellcheck", "--external-sources", *map(str, scripts), "scripts/lib/python.sh", ".ci/run")


def test_the_licence_of_every_package_is_listed_and_wanted() -> None:
    table, lock = (ROOT / name for name in ("docs/licences.md", "requirements.txt"))
    licences = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.+) \|$", table.read_text(), re.MULTILINE))
    # Without those that are for browsers alone.
    packages = set(re.findall(r"^([a-z0-9-]+)==\S+ (?!;.*== 'emscripten')", lock.read_text(), re.MULTILINE))
    assert packages - set(licences) == set(), "run scripts/sbom"
    assert {name: text for name, text in licences.items() if UNWANTED.search(text)} == {}
