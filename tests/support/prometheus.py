"""A real Prometheus on loopback, with our own rules, made quick for a test."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app import __title__
from tests.support.service import ROOT, eventually, free_port

RULES = ROOT / "deploy" / "prometheus" / "rules"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not on this machine (Debian: apt install prometheus; .ci/run does)",
)


def _scaled(rules: str, speed: int) -> str:
    """Divide windows and waits, and nothing else, of what will go into a rule file."""

    def divided(match: re.Match[str]) -> str:
        seconds = int(match[2]) * _UNITS[match[3]]
        return f"{match[1]}{max(2, round(seconds / speed))}s"

    return re.sub(r"(\[|for: )(\d+)([smhd])(?=\]|\n)", divided, rules)


class Prometheus:
    """It scrapes `targets` each second.

    Parameters
    ----------
    folder
        For its configuration and data.
    targets
        Host and port of each service.
    speed
        By what the windows and waits of the rules are divided; what they compare stays.
    """

    def __init__(self, folder: Path, targets: list[str], speed: int) -> None:
        (folder / "rules").mkdir(parents=True)
        for file in RULES.glob("*.yml"):
            (folder / "rules" / file.name).write_text(_scaled(file.read_text(), speed))
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            "rule_files: [rules/*.yml]\n"
            "scrape_configs:\n"
            f"  - job_name: {__title__}\n"
            f"    static_configs: [{{targets: {targets}}}]\n"
        )
        port = free_port()
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        eventually(self._scraped)

    def _scraped(self) -> bool:
        try:
            return bool(self.query("up == 1"))
        except (httpx2.TransportError, KeyError, ValueError):
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate it now: a list of `{"metric": labels, "value": [time, text]}`."""
        data = self._client.get("/api/v1/query", params={"query": expression}).json()["data"]
        result: list[dict[str, Any]] = data["result"] if data["resultType"] == "vector" else [data]
        return result

    def range(self, expression: str, seconds: float) -> dict[str, list[tuple[float, float]]]:
        """Evaluate it over the last seconds: points by their labels, as text."""
        now = time.time()
        span: dict[str, str | float] = {"query": expression, "start": now - seconds, "end": now, "step": 1}
        result = self._client.get("/api/v1/query_range", params=span).json()["data"]["result"]
        return {
            ",".join(f"{k}={v}" for k, v in sorted(series["metric"].items()) if k not in {"instance", "job"}): [
                (float(at), float(value)) for at, value in series["values"]
            ]
            for series in result
        }

    def firing(self) -> set[str]:
        """Name the alerts that fire."""
        alerts = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def close(self) -> None:
        """End it."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)
        self._log.close()


@contextlib.contextmanager
def scraping(folder: Path, *urls: str, speed: int = 20) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the services at `urls`."""
    targets = [url.removeprefix("http://") for url in urls]
    with contextlib.closing(Prometheus(folder, targets, speed)) as prometheus:
        yield prometheus
