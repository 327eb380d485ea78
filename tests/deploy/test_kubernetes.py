"""The manifests are valid and restricted, and agree with the code, the image and each other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import __version__
from app.core.config import Settings
from app.main import app
from tests.deploy.conftest import ROOT, Manifest, Run
from tests.support.settings import all_fields

Find = Callable[[str], Manifest]
BASE = ROOT / "deploy" / "kubernetes" / "base"
# The oldest that has all we use, and the newest that the validator knows.
VERSIONS = ("1.31.0", "1.37.0")
# Kinds of other projects, which the validator does not know.
FOREIGN_KINDS = {"ServiceMonitor"}
MAX_CONNECTIONS = 100 - 3  # PostgreSQL's default, without those kept for superusers


def pods(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [m["spec"]["template"]["spec"] for m in manifests if m["kind"] in {"Deployment", "Job"}]


def containers(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [c for pod in pods(manifests) for c in [*pod.get("initContainers", []), *pod["containers"]]]


def app_container(find: Find) -> dict[str, Any]:
    (container,) = find("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def settings_of(find: Find) -> dict[str, str]:
    return dict(find("ConfigMap")["data"])


def of_settings(find: Find, name: str) -> Any:
    return settings_of(find).get(name.upper(), Settings.model_fields[name].default)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_field(tool: Run, built: str, tmp_path: Path, version: str) -> None:
    file = tmp_path / "built.yaml"
    file.write_text(built)
    tool("kubernetes-validate", "--strict", "--quiet", "--kubernetes-version", version, str(file))


def test_the_options_build(tool: Run, tmp_path: Path) -> None:
    # kustomize takes no absolute paths, and nothing outside of the tree that it builds.
    for file in (ROOT / "deploy" / "kubernetes").rglob("*.*"):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    overlay = tmp_path / "deploy/kubernetes/overlays/production"
    text = (overlay / "kustomization.yaml").read_text()
    (overlay / "kustomization.yaml").write_text(re.sub(r"^# (components:|  - )", r"\1", text, flags=re.MULTILINE))
    built = list(yaml.safe_load_all(tool("kubectl", "kustomize", str(overlay))))
    (monitor,) = [m for m in built if m["kind"] in FOREIGN_KINDS]
    (service,) = [m for m in built if m["kind"] == "Service"]
    (deployment,) = [m for m in built if m["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    names = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert monitor["spec"]["endpoints"][0]["targetPort"] == names[1]
    assert not any(name.startswith("prometheus.io") for name in template["metadata"]["annotations"])
    env = {entry["name"]: entry for entry in template["spec"]["containers"][0]["env"]}
    assert env["DATABASE_URL"]["valueFrom"]["secretKeyRef"]["key"] == "POOLER_DATABASE_URL"
    assert env["DB_STATEMENT_TIMEOUT"]["value"] == "0"


def test_pods_are_restricted(manifests: list[Manifest]) -> None:
    (namespace,) = [m for m in manifests if m["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_user_is_the_image_s(manifests: list[Manifest], dockerfile: str) -> None:
    uid, gid = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[0]
    for pod in pods(manifests):
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(uid), int(gid))


def test_every_container_bounds_its_memory_and_asks_for_what_it_needs(manifests: list[Manifest]) -> None:
    for container in containers(manifests):
        assert container["resources"]["limits"]["memory"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}


def test_the_settings_are_valid(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(settings_of(find)) <= {name.upper() for name in all_fields()}
    for name, value in settings_of(find).items():
        monkeypatch.setenv(name, value)
    assert Settings().web_concurrency == 1


def test_every_variable_of_a_secret_is_one_of_the_service(manifests: list[Manifest]) -> None:
    known = {name.upper() for name in all_fields()} | {"DATABASE_REPLICA_URL"}
    for container in containers(manifests):
        assert {variable["name"] for variable in container["env"]} <= known


def test_there_is_no_secret_in_the_tree(manifests: list[Manifest]) -> None:
    assert not [m for m in manifests if m["kind"] == "Secret"]
    assert "secretGenerator" not in "".join(p.read_text() for p in (ROOT / "deploy/kubernetes").rglob("*.yaml"))


def test_the_grace_period_outlasts_the_service_s_own_bounds(find: Find) -> None:
    grace = find("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= float(of_settings(find, "drain_seconds")) + float(of_settings(find, "shutdown_timeout")) + 10


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/health/live"), ("livenessProbe", "/health/live"), ("readinessProbe", "/health/ready")],
)
def test_probes_ask_paths_that_the_service_has(find: Find, probe: str, path: str) -> None:
    container = app_container(find)
    assert container[probe]["httpGet"] == {"path": path, "port": container["ports"][1]["name"]}
    assert path in app.openapi()["paths"]


def test_probes_are_patient_enough(find: Find) -> None:
    container = app_container(find)
    # Readiness answers within 1 s; gunicorn replaces a hung worker after 20 s, before Kubernetes restarts the pod.
    assert container["readinessProbe"]["timeoutSeconds"] > 1
    assert container["livenessProbe"]["periodSeconds"] * (container["livenessProbe"]["failureThreshold"] - 1) > 20
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 60


def test_ports_agree(find: Find) -> None:
    container = app_container(find)
    port, operations_port = (int(of_settings(find, name)) for name in ("port", "ops_port"))
    assert [p["containerPort"] for p in container["ports"]] == [port, operations_port]
    assert [p["targetPort"] for p in find("Service")["spec"]["ports"]] == [container["ports"][0]["name"]]
    entrances = {
        entrance["ports"][0]["port"]: [
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in entrance["from"]
        ]
        for entrance in find("NetworkPolicy")["spec"]["ingress"]
    }
    assert entrances == {port: ["ingress-nginx"], operations_port: ["monitoring"]}
    annotations = find("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(operations_port)
    assert annotations["prometheus.io/path"] in app.openapi()["paths"]


def test_selectors_choose_the_pods_that_serve_and_no_others(find: Find) -> None:
    serving = find("Deployment")["spec"]["template"]["metadata"]["labels"]
    migrating = find("Job")["spec"]["template"]["metadata"]["labels"]
    for selector in (find("Service")["spec"]["selector"], find("Deployment")["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= serving.items()
        assert not selector.items() <= migrating.items()
    everybody = find("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert everybody.items() <= serving.items()
    assert everybody.items() <= migrating.items()


def test_names_agree(manifests: list[Manifest], find: Find) -> None:
    accounts = {pod["serviceAccountName"] for pod in pods(manifests)}
    assert accounts == {find("ServiceAccount")["metadata"]["name"]}
    name = find("ConfigMap")["metadata"]["name"]
    assert [source["configMapRef"]["name"] for source in app_container(find)["envFrom"]] == [name]
    assert {m["metadata"].get("namespace") for m in manifests if m["kind"] != "Namespace"} == {
        find("Namespace")["metadata"]["name"]
    }


def test_a_release_has_a_migration_of_its_own(find: Find) -> None:
    job = find("Job")
    image = job["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == app_container(find)["image"]
    assert job["metadata"]["name"] == f"migrate--{image.rpartition(':')[2]}"
    # A Job cannot be changed: nothing of it may depend on the ConfigMap, whose name changes with its content.
    assert "configMap" not in str(job)


def test_modules_that_are_run_are_in_the_image(manifests: list[Manifest]) -> None:
    named = (ROOT / ".dockerignore").read_text().splitlines()
    commands = [container["command"] for container in containers(manifests) if "command" in container]
    assert len(commands) == 2
    for python, option, module in commands:
        assert (python, option) == ("python", "-m")
        assert f"!{module.replace('.', '/')}.py" in named


def test_all_replicas_together_leave_the_database_connections(tool: Run) -> None:
    built = yaml.safe_load_all(tool("kubectl", "kustomize", "deploy/kubernetes/overlays/production"))
    by_kind = {m["kind"]: m for m in built}
    data = by_kind["ConfigMap"]["data"]
    # One is started before one is stopped, which then drains.
    at_most = by_kind["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] + 2
    assert at_most * int(data["WEB_CONCURRENCY"]) * (int(data["DB_POOL_SIZE"]) + 1) <= MAX_CONNECTIONS


def test_the_overlay_is_of_this_version() -> None:
    overlay = yaml.safe_load((BASE.parent / "overlays/production/kustomization.yaml").read_text())
    (image,) = overlay["images"]
    assert image["newTag"] == overlay["labels"][0]["pairs"]["app.kubernetes.io/version"] == __version__


def test_the_page_has_the_names_of_the_overlay(tool: Run) -> None:
    overlay = "deploy/kubernetes/overlays/production"
    built = list(yaml.safe_load_all(tool("kubectl", "kustomize", overlay)))
    names = {(m["kind"], m["metadata"]["name"]) for m in built}
    secrets = {source["name"] for c in containers(built) for source in _secret_keys(c)}
    page = (ROOT / "docs" / "deploy.md").read_text()

    [namespace] = re.findall(r"set-context --current --namespace (\S+)", page)
    [deployment] = re.findall(r"rollout status deployment/(\S+)", page)
    [secret] = re.findall(r"create secret generic (\S+)", page)
    assert {("Namespace", namespace), ("Deployment", deployment)} <= names
    assert secrets == {secret}


def _secret_keys(container: dict[str, Any]) -> list[dict[str, Any]]:
    sources = [variable.get("valueFrom", {}) for variable in container.get("env", [])]
    return [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]
