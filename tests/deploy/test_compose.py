"""docker-compose.yml is valid, safe, and agrees with the code and the image."""

import re
from typing import Any

import pytest
import yaml

from app.core.config import Settings
from tests.deploy.conftest import ROOT, Run
from tests.support.settings import all_fields

Compose = dict[str, Any]
PASSWORD = {"POSTGRES_PASSWORD": "any"}  # pragma: allowlist secret
OURS = ("app", "migrate")
# libpq's own, see the comment in the file.
FOREIGN = {"PGPASSWORD"}


def default(value: str) -> str:
    """Return what `${NAME:-default}` stands for when nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_the_file_is_valid(tool: Run) -> None:
    tool("docker-compose", "--env-file", "/dev/null", "--profile", "monitoring", "config", "--quiet", **PASSWORD)


def test_without_a_password_nothing_starts(tool: Run) -> None:
    with pytest.raises(AssertionError, match="POSTGRES_PASSWORD"):
        tool("docker-compose", "--env-file", "/dev/null", "config", "--quiet")


def test_no_password_is_written_down() -> None:
    for line in (ROOT / "docker-compose.yml").read_text().splitlines():
        if re.match(r"\s*\w*(PASSWORD|SECRET|TOKEN|KEY)\w*:", line):
            assert re.search(r": \$\{\w+:\?", line), line


def test_every_variable_is_one_of_the_service(compose: Compose) -> None:
    known = {name.upper() for name in all_fields()} | FOREIGN
    for name in OURS:
        assert set(compose["services"][name]["environment"]) <= known


def test_the_defaults_are_a_valid_configuration(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in compose["services"]["app"]["environment"].items():
        monkeypatch.setenv(name, default(value))
    settings = Settings()
    assert settings.database_url.get_secret_value() == "postgresql://service@db:5432/service"


def test_ports_are_published_on_this_machine_only(compose: Compose) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_service_s_ports_are_the_published_ones(compose: Compose) -> None:
    port, operations_port = compose["services"]["app"]["ports"]
    assert port.endswith(f":{Settings.model_fields['port'].default}")
    assert operations_port.endswith(f":{compose['services']['app']['environment']['OPS_PORT']}")


@pytest.mark.parametrize("name", [*OURS, "prometheus", "grafana"])
def test_containers_are_hardened(compose: Compose, name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "user" not in service  # the image's own, which is no root


def test_the_app_waits_for_the_database_and_the_migration(compose: Compose) -> None:
    assert compose["services"]["app"]["depends_on"] == {
        "db": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }


def test_the_grace_period_outlasts_the_service_s_own_bounds(compose: Compose) -> None:
    app = compose["services"]["app"]
    drain, finish = (float(default(app["environment"][name])) for name in ("DRAIN_SECONDS", "SHUTDOWN_TIMEOUT"))
    assert float(app["stop_grace_period"].removesuffix("s")) >= drain + finish + 10 + 5


def test_what_is_mounted_is_there(compose: Compose) -> None:
    mounts = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    folders = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_prometheus_and_grafana_find_what_they_are_given(compose: Compose) -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [job["static_configs"][0]["targets"] for job in config["scrape_configs"]]
    assert targets == [[f"app:{compose['services']['app']['environment']['OPS_PORT']}"]]
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/service.yml").read_text())["providers"]
    assert any(provider["options"]["path"] in volume for volume in compose["services"]["grafana"]["volumes"])


def test_the_database_has_no_way_out(compose: Compose) -> None:
    assert compose["networks"]["database"] == {"internal": True}
    assert compose["services"]["db"]["networks"] == ["database"]
