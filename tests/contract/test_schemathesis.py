"""The schema tells the truth, and no input makes a 5xx: schemathesis against two workers, all checks, all phases.

`schemathesis.toml` has the settings. By hand, with the service and an inventory running:
`schemathesis run http://127.0.0.1:8000/openapi.json --seed 4 --max-examples 500`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service

pytestmark = pytest.mark.slow

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]
EXAMPLES = 10


@pytest.mark.parametrize("seed", SEEDS)
def test_schemathesis_is_silent(whole_service: Service, seed: int) -> None:
    report = _schemathesis(whole_service.url, seed)
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅  {phase} (in" in report, report
    assert not [line for line in whole_service.lines() if line["level"] in {"ERROR", "CRITICAL"}]


def _schemathesis(url: str, seed: int) -> str:
    """Run it, and return what it says; it ends with 0 when there was no failure, no error and no warning."""
    command: list[str | Path] = [
        Path(sys.executable).with_name("schemathesis"),
        "run",
        f"{url}/openapi.json",
        "--no-color",
    ]
    run = subprocess.run(
        [*command, f"--seed={seed}", f"--max-examples={EXAMPLES}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
