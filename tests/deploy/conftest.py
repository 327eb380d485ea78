"""What is judged: Dockerfile, compose file and manifests, as their own tools read them. No engine is needed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "requirements-deploy.txt"
TOOL_TIMEOUT = 300.0  # seconds
OVERLAYS = ("development", "production")

Run = Callable[..., str]
Manifest = dict[str, Any]


@pytest.fixture(scope="session")
def tool() -> Run:
    """Run one of the pinned tools, which stand beside this Python; a failure has its output."""
    folder = Path(sys.executable).parent

    def run(name: str, *words: str, **variables: str) -> str:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not installed; scripts/test installs {TOOLS}")
        done = subprocess.run(
            [folder / name, *words],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=TOOL_TIMEOUT,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        )
        assert done.returncode == 0, f"{name} {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def dockerfile() -> str:
    """Read the Dockerfile, with lines that go on joined."""
    return (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """Read the compose file as it is written, merges done."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


@pytest.fixture(scope="session", params=OVERLAYS)
def built(request: pytest.FixtureRequest, tool: Run) -> str:
    """Build an overlay."""
    return tool("kubectl", "kustomize", f"deploy/kubernetes/overlays/{request.param}")


@pytest.fixture(scope="session")
def manifests(built: str) -> list[Manifest]:
    """Read a built overlay."""
    return list(yaml.safe_load_all(built))


@pytest.fixture(scope="session")
def find(manifests: list[Manifest]) -> Callable[[str], Manifest]:
    """Find the manifest of a kind of which there is one."""

    def find(kind: str) -> Manifest:
        (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
        return found

    return find
