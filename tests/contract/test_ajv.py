"""A client in JavaScript, whose numbers are doubles, agrees with the schema about /items."""

import subprocess
from pathlib import Path

import pytest

from tests.support import npm
from tests.support.service import Service

pytestmark = pytest.mark.slow


def test_a_client_that_validates_with_ajv_can_do_everything(service: Service) -> None:
    folder = npm.install(Path(__file__).parent / "ajv")

    run = subprocess.run(
        ["node", "client.mjs", service.url], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("values are valid\n")
