"""The harness runs: a table, a file, a picture, and nobody fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is missing (Debian: apt install wrk)")
def test_measures_ours_and_the_floor(tmp_path: Path) -> None:
    words = ["--services", "ours,floor", "--workloads", "get", "--connections", "4", "--workers", "1"]
    words += ["--rounds", "1", "--seconds", "1", "--rows", "500", "--data", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"scripts:{ROOT}"},
    )
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "performance.json").read_text())["results"]
    assert [(r["workload"], r["service"]) for r in results] == [("get", "ours"), ("get", "floor")]
    for result in results:
        assert result["median"]["requests_per_second"] > 0
        assert result["median"]["failed"] == 0
    assert "| ours |" in run.stdout
    assert (tmp_path / "performance.svg").read_text().count("<rect") == 1 + 2 * len(results)
