"""Prometheus' own tools judge what is in `deploy/`; each alert has its place in the runbook."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.prometheus import RULES, needs_prometheus
from tests.support.service import ROOT

pytestmark = pytest.mark.slow

PROMETHEUS = RULES.parent
RUNBOOK = ROOT / "docs" / "operations.md"
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))


def _promtool(*words: object) -> str:
    result = subprocess.run(
        ["promtool", *map(str, words)], capture_output=True, text=True, timeout=900, check=False, cwd=PROMETHEUS
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _anchors() -> set[str]:
    """Make the anchors as GitHub does: lower case, dashes for spaces, the rest dropped."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@needs_prometheus
def test_the_configuration_and_the_rules_are_sound() -> None:
    _promtool("check", "config", "prometheus.yml")
    assert "lint" not in _promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES.glob("*.yml")).lower()


@needs_prometheus
@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_must_and_only_then(file: object) -> None:
    assert "SUCCESS" in _promtool("test", "rules", file)


def test_every_alert_is_held_by_a_test_that_it_fires() -> None:
    tests = "".join(file.read_text() for file in RULE_TESTS)

    assert [alert["alert"] for alert in _alerts() if f'alertname="{alert["alert"]}"' not in tests] == []


def test_every_alert_leads_to_its_place_in_the_runbook() -> None:
    anchors = _anchors()
    for alert in _alerts():
        file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert file == "{{ $externalLabels.runbook }}"  # set in prometheus.yml
        assert anchor in anchors, alert["alert"]
        assert anchor == alert["alert"].lower()
