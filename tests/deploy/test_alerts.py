"""The alerts are valid, fire on what they describe, and lead to a runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from testkit import ROOT
from tests.deploy.tools import run, tool

PROMETHEUS = ROOT / "deploy" / "prometheus"
UNIT_TESTS = sorted(PROMETHEUS.glob("*_test.yaml"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"] for rule in group["rules"]
]
RUNBOOK = "https://example.com/cxone-outbox-relay/docs/alerts.html#"


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Return promtool's exit code and output."""
    done = run([tool("promtool", "apt-get install prometheus"), *arguments])
    return done.returncode, done.stdout


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name)
def test_promtool_sees_each_alert_fire_and_clear(file: Path) -> None:
    """Prometheus's own unit tests, on made-up series."""
    code, output = promtool("test", "rules", file)
    assert code == 0, output


def test_promtool_accepts_the_configuration() -> None:
    """The example, with the rules that it loads."""
    code, output = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert code == 0, output
    assert f"{len(RULES)} rules found" in output


@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_each_alert_has_tests_that_fire_and_that_do_not(severity: str) -> None:
    """The unit tests expect each alert at one time at least, and expect it to be silent at another."""
    wanted = {rule["alert"] for rule in RULES if rule["labels"]["severity"] == severity}
    fires: set[str] = set()
    silent: set[str] = set()
    for file in UNIT_TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for each in test["promql_expr_test"]:
                if f'severity="{severity}"' in each["expr"]:
                    (name,) = re.findall(r'alertname="(\w+)"', each["expr"])
                    (fires if each["exp_samples"] else silent).add(name)
    assert fires == wanted
    assert silent == wanted


def test_each_alert_has_a_runbook() -> None:
    """A heading of docs/alerts.md, which says what it means, what to look at and what to do; and no other is there."""
    page = (ROOT / "docs/alerts.md").read_text()
    found = re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    sections = {title.lower(): text for title, text in found}
    assert {rule["annotations"]["runbook_url"] for rule in RULES} == {f"{RUNBOOK}{title}" for title in sections}
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["runbook_url"] == RUNBOOK + rule["alert"].lower()
        assert rule["annotations"]["summary"]
    for title, text in sections.items():
        for part in ("**Means**", "**Look at**", "**do**"):
            assert part.lower() in text.lower(), f"{title} lacks {part}"


def test_alerts_use_metrics_and_labels_that_exist() -> None:
    """Each metric is described in docs/metrics.md, and so is each value of a label that an expression names."""
    page = (ROOT / "docs/metrics.md").read_text()
    described = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    used = "\n".join(rule["expr"] for rule in RULES)
    names = {
        name.removesuffix("_bucket").removesuffix("_count") for name in re.findall(r"\b(?:outbox|cxone)_\w+", used)
    }
    assert len(names) > 15
    assert names <= described
    values = {
        value
        for given in re.findall(r'(?:outcome|state|verdict|stage)[=!]~?"([^"]+)"', used)
        for value in given.split("|")
    }
    assert [value for value in sorted(values) if f"`{value}`" not in page] == []
