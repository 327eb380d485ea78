"""The Dockerfile agrees with the code, and puts nothing into the image that does not belong there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.core.config import Settings
from app.main import app
from tests.deploy.conftest import ROOT, Run


def instructions(dockerfile: str, name: str) -> list[str]:
    return re.findall(rf"^\s*{name} +(.*)$", dockerfile, re.MULTILINE)


def test_hadolint_finds_nothing(tool: Run) -> None:
    tool("hadolint", "Dockerfile")


def test_the_process_is_started_without_a_shell(dockerfile: str) -> None:
    commands = [json.loads(words) for words in instructions(dockerfile, "CMD")]
    assert ["python", "-m", "app.server"] in commands
    assert not instructions(dockerfile, "ENTRYPOINT")
    assert instructions(dockerfile, "STOPSIGNAL") == ["SIGTERM"]


def test_the_user_is_a_number_and_not_root(dockerfile: str) -> None:
    (user,) = instructions(dockerfile, "USER")
    assert [int(number) > 0 for number in user.split(":")] == [True, True]


def test_the_port_is_the_service_s(dockerfile: str) -> None:
    assert instructions(dockerfile, "EXPOSE") == [str(Settings.model_fields["port"].default)]


def test_the_health_check_asks_for_liveness_at_the_service_s_port(dockerfile: str) -> None:
    (check,) = instructions(dockerfile, "HEALTHCHECK")
    code = json.loads(check.partition("CMD ")[2])[-1]
    compile(code, "HEALTHCHECK", "exec")
    assert f"os.environ.get('OPS_PORT') or os.environ.get('PORT') or '{Settings.model_fields['port'].default}'" in code
    (path,) = re.findall(r"'(/[a-z/]+)'", code)
    assert path in app.openapi()["paths"]


def test_the_base_can_be_pinned_and_both_stages_have_the_same(dockerfile: str) -> None:
    assert instructions(dockerfile, "FROM") == ["${BASE_IMAGE} AS builder", "${BASE_IMAGE} AS runtime"]
    assert "# syntax" not in dockerfile


def test_packages_are_installed_by_hash_before_the_code_comes(dockerfile: str) -> None:
    assert dockerfile.index("--require-hashes") < dockerfile.index("COPY . /app")
    packages = re.split(r"^(?=[a-z0-9])", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)[1:]
    assert len(packages) > 20
    assert [package.split()[0] for package in packages if "--hash=sha256:" not in package] == []


def test_the_context_is_what_is_named_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = {Path(rule[1:]) for rule in rules if rule.startswith("!")}
    assert all((ROOT / path).exists() for path in named)
    assert {str(path) for path in named if path.parent == Path()} == {
        "requirements.txt",
        "gunicorn.conf.py",
        "alembic.ini",
        "alembic",
        "app",
        "scripts",
    }
    # Whatever is named, these stay out: they come last.
    assert rules[-3:] == ["**/.env*", "**/__pycache__", "**/*.pyc"]


def test_every_script_of_the_image_needs_only_what_is_in_it() -> None:
    for file in re.findall(r"^!(scripts/lib/\w+\.py)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
        assert not re.search(r"^(from|import) (lib|postgres|scripts)\b", (ROOT / file).read_text(), re.MULTILINE), file


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_stop_is_heard_before_gunicorn_is_there() -> None:
    """Process 1 ignores signals without a handler, so there has to be one before a second of imports."""
    # Coverage would bring a handler of its own into the child.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    variables = {**inherited, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere", "PORT": "0"}
    command = [sys.executable, "-m", "app.server"]
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as starting:
        status, deadline = Path(f"/proc/{starting.pid}/status"), time.monotonic() + 120
        while not handles(status.read_text(), signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        starting.terminate()
        out, _ = starting.communicate(timeout=120)
    assert (starting.returncode, out) == (0, "")


def handles(status: str, number: signal.Signals) -> bool:
    caught = re.findall(r"^SigCgt:\s+(\w+)$", status, re.MULTILINE)
    return bool(int(caught[0], 16) >> (number - 1) & 1)
