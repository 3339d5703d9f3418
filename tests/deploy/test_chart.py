"""The chart's manifests are valid, safe, and fit each other and the product."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from config.setting_names import KNOWN_NAMES, SECRET_NAMES
from config.settings import SettingsError, load
from deploy.entrypoint import PROCESSES
from migrations.settings import ReleaseSettings
from testkit import ROOT
from tests.deploy.chart import MANIFESTS, VALUES, fingerprint

KUBERNETES = ("1.30", "1.34")
"""The oldest version that the chart accepts, and a recent one."""
OPERATOR_KINDS = ("ServiceMonitor", "PrometheusRule")
"""Of the Prometheus operator, not of Kubernetes itself."""
Manifest = dict[str, Any]


def manifests(name: str) -> list[Manifest]:
    """Return the manifests that were rendered with these values."""
    return [each for each in yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text()) if each]


def pods(name: str) -> Iterator[tuple[str, Manifest]]:
    """Yield the name of each process, and the template of its pods."""
    for each in manifests(name):
        if template := each["spec"].get("template"):
            yield each["metadata"]["labels"]["app.kubernetes.io/component"], template


@pytest.mark.parametrize("name", VALUES)
def test_the_manifests_are_of_this_chart(name: str) -> None:
    """After a change of the chart, ``make chart`` renders it anew."""
    first = (MANIFESTS / f"{name}.yaml").read_text().partition("\n")[0]
    assert first == fingerprint().strip(), "the chart has changed: run make chart"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", VALUES)
def test_manifests_are_valid(name: str, version: str) -> None:
    """Each follows the schema of Kubernetes, without an unknown field."""
    for each in manifests(name):
        if each["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", VALUES)
def test_pods_meet_the_restricted_standard(name: str) -> None:
    """No root, no capability, no escalation, default seccomp; beyond it no token and a read-only file system."""
    found = list(pods(name))
    assert len(found) >= 3
    for _, template in found:
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert all(volume.keys() <= {"name", "emptyDir", "secret"} for volume in spec["volumes"])
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]  # noqa: S108 - in the container


@pytest.mark.parametrize("name", VALUES)
def test_selectors_find_pods(name: str) -> None:
    """Each selector matches the labels of one process's pods, and each name that is referred to exists."""
    labels = [template["metadata"]["labels"] for _, template in pods(name)]
    named = {(each["kind"], each["metadata"]["name"]) for each in manifests(name)}
    assert len(named) == len(manifests(name))
    for each in manifests(name):
        spec = each["spec"]
        selector = spec.get("selector") or spec.get("podSelector")
        if selector and each["kind"] not in OPERATOR_KINDS:
            wanted = selector.get("matchLabels", selector)
            assert sum(wanted.items() <= found.items() for found in labels) == 1, each["metadata"]
        if each["kind"] == "HorizontalPodAutoscaler":
            assert ("Deployment", spec["scaleTargetRef"]["name"]) in named
        if each["kind"] == "Ingress":
            for path in spec["rules"][0]["http"]["paths"]:
                assert ("Service", path["backend"]["service"]["name"]) in named
        if each["kind"] == "ServiceMonitor":
            services = [other for other in manifests(name) if other["kind"] == "Service"]
            wanted = spec["selector"]["matchLabels"].items()
            assert all(wanted <= service["metadata"]["labels"].items() for service in services)


@pytest.mark.parametrize("name", VALUES)
def test_processes_know_their_settings(name: str) -> None:
    """Each variable is a setting, each secret is the file of one, and each argument names a process."""
    watch = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["verify"]["command"]
    for process, template in pods(name):
        (container,) = template["spec"]["containers"]
        assert process in (*PROCESSES, "migrate", "verify")
        assert container["args"] == ([*watch, *VALUES[name]["verify"]["options"]] if process == "verify" else [process])
        variables = {each["name"]: each.get("value") for each in container["env"]}
        assert len(variables) == len(container["env"])
        for variable, value in variables.items():
            if variable.endswith("_FILE"):
                setting = variable.removesuffix("_FILE")
                assert setting in SECRET_NAMES or variable in KNOWN_NAMES
                assert value == f"/run/secrets/outbox/{setting}"
            else:
                assert variable in KNOWN_NAMES
                assert variable not in SECRET_NAMES


def test_sqlite_is_refused_at_the_start() -> None:
    """The chart cannot see the URL in a Secret: the migration is refused by the process, and says why."""
    (template,) = (template for process, template in pods("default") if process == "migrate")
    (container,) = template["spec"]["containers"]
    variables = {each["name"]: each.get("value", "a pod's name") for each in container["env"]}
    del variables["DATABASE_URL_FILE"]
    with pytest.raises(SettingsError, match="SQLite cannot work, as processes share no disk"):
        load(ReleaseSettings, {**variables, "DATABASE_URL": "sqlite:////tmp/outbox.db"})


def test_relays_are_as_many_as_set_and_the_console_is_one() -> None:
    """Nothing scales relays; a second console never runs beside the first."""
    found = {each["metadata"]["name"]: each for each in manifests("everything") if each["kind"] == "Deployment"}
    assert found["outbox-relay"]["spec"]["replicas"] == 3
    assert found["outbox-console"]["spec"]["replicas"] == 1
    assert found["outbox-console"]["spec"]["strategy"] == {"type": "Recreate"}
    targets = [
        e["spec"]["scaleTargetRef"]["name"] for e in manifests("default") if e["kind"] == "HorizontalPodAutoscaler"
    ]
    assert targets == ["outbox-web"]


def test_the_verification_is_one_with_the_port_that_is_scraped() -> None:
    """A Service for it gives the ServiceMonitor the job that the alerts expect; by default there is neither."""
    found = {(each["kind"], each["metadata"]["name"]): each["spec"] for each in manifests("everything")}
    deployment, service = found["Deployment", "outbox-verify"], found["Service", "outbox-verify"]
    assert deployment["replicas"] == 1
    (container,) = deployment["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) in container["args"]
    assert service["ports"] == [{"name": "http", "port": port["containerPort"], "targetPort": port["name"]}]
    assert found["NetworkPolicy", "outbox-verify"]["ingress"][0]["ports"] == [{"port": port["name"]}]
    assert not [each for each in manifests("default") if each["metadata"]["name"] == "outbox-verify"]


def test_the_alerts_are_those_of_the_rules() -> None:
    """The file that Prometheus reads, with the labels that the operator selects by."""
    (rule,) = (each for each in manifests("everything") if each["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "monitoring"


def test_the_chart_has_the_version_of_the_package() -> None:
    """Chart and image are released with the package."""
    chart = yaml.safe_load((ROOT / "deploy/helm/Chart.yaml").read_text())
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    assert version == f'version = "{chart["version"]}"'
    assert chart["appVersion"] == chart["version"]
