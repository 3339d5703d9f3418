"""``python -m tests.deploy.chart``: lint the chart and render it with helm into ``tests/deploy/manifests``.

Tests validate what was rendered, and that it was rendered from the chart as it is; so they need no helm.
"""

import hashlib
import json
import shutil
import sys
from typing import Any

from testkit import ROOT
from tests.deploy.tools import run

CHART = ROOT / "deploy" / "helm"
MANIFESTS = ROOT / "tests" / "deploy" / "manifests"
SETTINGS = {"KAFKA_BOOTSTRAP_SERVERS": "kafka.example.com:9092", "SCHEMA_REGISTRY_URL": "https://registry.example.com"}
KAFKA = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 9092}]}
VALUES: dict[str, dict[str, Any]] = {
    "default": {"settings": SETTINGS},
    "everything": {
        "imagePullSecrets": [{"name": "pull"}],
        "settings": {**SETTINGS, "WEBHOOK_MAX_BYTES": "1048576"},
        "web": {"autoscaling": {"enabled": False}, "replicas": 3, "settings": {"WEB_THREADS": "32"}},
        "relay": {"shards": 4, "replicas": 3},
        "console": {"enabled": True},
        "verify": {"enabled": True, "options": ["--values"]},
        "ingress": {"enabled": True, "className": "nginx", "annotations": {"example.com/note": "kept"}},
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True, "labels": {"release": "monitoring"}},
        "networkPolicy": {
            "enabled": True,
            "from": {
                "ingress": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
                "metrics": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            },
            "egress": {"relay": [KAFKA]},
        },
    },
}
"""Values with which the chart is rendered, by the name of the file."""
REFUSED: dict[str, dict[str, Any]] = {
    "SQLite needs a disk": {"settings": {"DATABASE_URL": "sqlite:///outbox.db"}},
    "DATABASE_URL contains a password": {"web": {"settings": {"DATABASE_URL": "postgres://u:p@h/d"}}},
    "set relay.shards": {"settings": {"RELAY_SHARDS": "4"}},
    "a relay without a shard": {"relay": {"replicas": 3}},
    "protect them by METRICS_TOKEN": {
        "ingress": {"enabled": True},
        "console": {"enabled": True, "secret": {"keys": ["DATABASE_URL"]}},
    },
    "set CONSOLE_PREFIX": {
        "ingress": {"enabled": True},
        "console": {"enabled": True, "settings": {"CONSOLE_PREFIX": ""}},
    },
    "webb": {"webb": {}},
    "got number, want string": {"settings": {"WEBHOOK_MAX_BYTES": 1048576}},
    "contains": {"relay": {"secret": {"keys": ["METRICS_TOKEN"]}}},
}
"""Values that the chart refuses, by a part of the message."""


def fingerprint() -> str:
    """Return a hash of the chart and of the values with which it is rendered."""
    digest = hashlib.sha256(json.dumps(VALUES, sort_keys=True).encode())
    for file in sorted(CHART.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(CHART)}\0".encode() + file.read_bytes())
    return f"# Rendered by `make chart` from the chart with the fingerprint {digest.hexdigest()}.\n"


def render(values: dict[str, Any]) -> tuple[int, str]:
    """Return helm's exit code, and the manifests or the error."""
    folder = MANIFESTS.parent / "values.tmp.json"
    folder.write_text(json.dumps(values))
    try:
        done = run(["helm", "template", "outbox", CHART, "--kube-version", "1.34", "--values", folder])
    finally:
        folder.unlink()
    return done.returncode, done.stdout


def main() -> int:
    """Lint and render the chart, and see that it refuses what it should."""
    lint = run(["helm", "lint", "--strict", CHART])
    if lint.returncode:
        sys.stderr.write(lint.stdout)
        return 1
    shutil.rmtree(MANIFESTS, ignore_errors=True)
    MANIFESTS.mkdir()
    for name, values in VALUES.items():
        code, text = render(values)
        if code:
            sys.stderr.write(text)
            return 1
        (MANIFESTS / f"{name}.yaml").write_text(fingerprint() + text)
    for message, values in REFUSED.items():
        code, text = render(values)
        if not code or message not in text:
            sys.stderr.write(f"{values} should be refused with {message!r}, helm says:\n{text}")
            return 1
    sys.stdout.write(f"rendered {len(VALUES)} times, {len(REFUSED)} values refused\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
