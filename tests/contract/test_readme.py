"""The requests that README.md shows are answered as it says."""

import re
import shutil
import subprocess

import pytest

from tests.conftest import StartService
from tests.support.service import ROOT

_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_readme_s_requests_are_answered_as_it_says(start_service: StartService) -> None:
    block, with_token = (text for text in _FENCE.findall((ROOT / "README.md").read_text()) if "curl" in text)
    assert "scripts/token --settings" in with_token  # tests/scripts/test_token.py does what it says
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    script = block.replace("http://localhost:8000", start_service().url)

    done = subprocess.run(["bash", "-e"], input=script, text=True, capture_output=True, timeout=240, check=True)

    statuses = re.findall(r"HTTP/1.1 (\d+)", done.stdout)
    assert statuses == ["201", "201", "200", "200", "404"]
    for said in (
        "location: /items/1",
        'etag: "1"',
        'rel="next"',
        '"next_cursor":"',
        '{"detail":{"code":"ITEM_NOT_FOUND"',
    ):
        assert said in done.stdout
