"""What tells one request from another, in every process."""

import os
import subprocess
import sys

import pytest

from tests.support.service import ROOT

FINGERPRINT = """
from pydantic import BaseModel
from app.core.database.once import Once

class Part(BaseModel):
    tags: set[str]

class Order(BaseModel):
    part: Part
    note: str = ""

once = Once("", "key", "POST /orders", lambda: None)
part = Part(tags={tags})
print(*(once.fingerprint(asked).hex() for asked in (part, Order(part=part), {{"tags": part.tags}}, [part.tags])))
"""
TAGS = [f"tag {n}" for n in range(20)]


def fingerprints(seed: int, tags: list[str]) -> list[str]:
    """Make fingerprints in a process whose sets have an order of their own."""
    script = FINGERPRINT.format(tags=set(tags))
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        check=True,
        text=True,
    )
    return made.stdout.split()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_request_with_sets_is_the_same_one_in_every_process(seed: int) -> None:
    first = fingerprints(0, TAGS)

    assert fingerprints(seed, TAGS) == first
    assert not set(fingerprints(seed, TAGS[1:])) & set(first)
