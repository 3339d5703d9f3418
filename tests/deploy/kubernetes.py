"""``python -m tests.deploy.kubernetes``: install the chart with helm on a real API server.

There are no nodes: the server validates and admits what helm sends, in a namespace that enforces and warns by the
standard ``restricted``, and a thread of this program completes the migration, as a cluster's controller would. No pod
runs.
"""

import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from testkit.services.kubernetes import ApiServer
from testkit.waiting import wait_until
from tests.deploy.chart import CHART, MANIFESTS, VALUES
from tests.deploy.containers import timed
from tests.deploy.tools import run

NAMESPACE = "hooks"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
KINDS = (
    DEPLOYMENTS,
    JOBS,
    f"/api/v1/namespaces/{NAMESPACE}/services",
    f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
    f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers",
    f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses",
    f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies",
    f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/servicemonitors",
    f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/prometheusrules",
)
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
WHEN = "2026-01-01T00:00:00Z"
COMPLETE = {
    "startTime": WHEN,
    "completionTime": WHEN,
    "succeeded": 1,
    "uncountedTerminatedPods": {},
    "conditions": [
        {"type": kind, "status": "True", "lastTransitionTime": WHEN} for kind in ("SuccessCriteriaMet", "Complete")
    ],
}


def main() -> None:
    """Install, upgrade, roll back and uninstall the chart, and look at what the server has and refuses."""
    with tempfile.TemporaryDirectory() as folder:
        with timed("API server ready"):
            server = ApiServer(Path(folder)).start()
        try:
            sys.stdout.write(f"Kubernetes {server.send('GET', '/version').json()['gitVersion']}\n")
            prepare(server)
            check_release(server)
            check_refusals(server)
        finally:
            server.stop()


def prepare(server: ApiServer) -> None:
    """Make the namespace, and the kinds of objects that the Prometheus operator would add."""
    create(server, "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    for kind in ("ServiceMonitor", "PrometheusRule"):
        define(server, kind)


def define(server: ApiServer, kind: str) -> None:
    """Make a kind of object of the Prometheus operator, without its schema."""
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    create(server, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    path = f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/{plural}"
    wait_until(lambda: server.send("GET", path).ok, f"the server knows {plural}")


def check_release(server: ApiServer) -> None:
    """The chart installs as a user installs it, and each later step leaves exactly what it says."""
    with migrated(server) as migrations:
        with timed("installed"):
            helm(server, "install", "default")
        assert installed(server) == rendered("default")
        check_pods(server)
        with timed("upgraded"):
            helm(server, "upgrade", "everything")
        assert installed(server) == rendered("everything")
        check_pods(server)
        with timed("rolled back"):
            helm(server, "rollback")
        assert installed(server) == rendered("default")
    # Before the installation, and beside web and relay before the upgrade; a rollback leaves the schema as it is.
    assert migrations == [0, 2], migrations
    helm(server, "uninstall")
    assert installed(server) == set()


def check_pods(server: ApiServer) -> None:
    """The server would start a pod of each process: what a Deployment's or Job's template asks for is admitted."""
    for deployment in server.send("GET", DEPLOYMENTS).json()["items"]:
        template = deployment["spec"]["template"]
        pod = {"metadata": {**template["metadata"], "name": "pod"}, "spec": template["spec"]}
        create(server, PODS, pod, dryRun="All")


def check_refusals(server: ApiServer) -> None:
    """The server is one that refuses: so nothing above passed because it looks at nothing."""
    unsafe = {"metadata": {"name": "unsafe"}, "spec": {"containers": [{"name": "web", "image": "web"}]}}
    answer = server.send("POST", PODS, unsafe)
    assert (answer.status_code, "restricted" in answer.text) == (403, True), answer.text
    selector = {"matchLabels": {"component": "web"}}
    template = {"metadata": {"labels": {"component": "relay"}}, "spec": unsafe["spec"]}
    missed = {"metadata": {"name": "missed"}, "spec": {"selector": selector, "template": template}}
    answer = server.send("POST", DEPLOYMENTS, missed)
    assert (answer.status_code, "selector" in answer.text) == (422, True), answer.text


@contextlib.contextmanager
def migrated(server: ApiServer) -> Iterator[list[int]]:
    """Complete each migration, as a cluster does once its pod has ended; list how many deployments were there."""
    seen: dict[str, int] = {}
    done = threading.Event()

    def complete() -> None:
        while not done.wait(0.1):
            for job in server.send("GET", JOBS).json()["items"]:
                if job["metadata"]["uid"] not in seen:
                    seen[job["metadata"]["uid"]] = len(server.send("GET", DEPLOYMENTS).json()["items"])
                    pod = {"metadata": {"name": "pod"}, "spec": job["spec"]["template"]["spec"]}
                    create(server, PODS, pod, dryRun="All")
                    path = f"{JOBS}/{job['metadata']['name']}/status"
                    answer = server.send("PATCH", path, {"status": COMPLETE})
                    assert answer.ok, answer.text

    found: list[int] = []
    with ThreadPoolExecutor(1, "controller") as threads:
        controller = threads.submit(complete)
        try:
            yield found
        finally:
            done.set()
            controller.result()
            found += seen.values()


def create(server: ApiServer, path: str, body: dict[str, Any], **query: str) -> None:
    """Send an object, which the server must accept without a warning."""
    answer = server.send("POST", path, body, **query)
    assert answer.status_code == 201, f"{path}: {answer.text}"
    assert "Warning" not in answer.headers, answer.headers["Warning"]


def installed(server: ApiServer) -> set[str]:
    """Return what of the chart is in the namespace, as kind and name."""
    found = set()
    for path in KINDS:
        answer = server.send("GET", path)
        assert answer.ok, answer.text
        kind = answer.json()["kind"].removesuffix("List")
        found |= {f"{kind}/{each['metadata']['name']}" for each in answer.json()["items"]}
    return found


def rendered(name: str) -> set[str]:
    """Return what ``make chart`` has rendered with these values, without the migration, which is deleted when done."""
    objects = [each for each in yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text()) if each]
    return {f"{each['kind']}/{each['metadata']['name']}" for each in objects if each["kind"] != "Job"}


def helm(server: ApiServer, verb: str, values: str = "") -> None:
    """Run helm as a user would. It must end well, and pass on no warning of the server."""
    command: list[str | Path] = ["helm", "--kubeconfig", server.kubeconfig, "--namespace", NAMESPACE, verb, "outbox"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        if values:
            json.dump(VALUES[values], file)
            file.flush()
            command += [CHART, "--values", file.name, "--timeout", "60s"]
        done = run(command)
    assert done.returncode == 0, done.stdout
    assert "warning" not in done.stdout.lower(), done.stdout


if __name__ == "__main__":
    main()
