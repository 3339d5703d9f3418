"""A real Prometheus sees incidents of real processes, and answers every query of the dashboard.

More incidents: ``python -m tests.deploy.alerts``.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from math import isfinite

import pytest

from deploy.grafana.dashboard import ANNOTATIONS, FILE, dashboard
from testkit.databases import create_sqlite
from testkit.deployment import Deployment, settings_for
from testkit.services import ExternalService, Kafka, Registry, ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.waiting import wait_until, wait_until_passes
from tests.deploy import incidents
from tests.deploy.incidents import operate, play
from tests.deploy.monitored_system import MonitoredSystem
from tests.deploy.picture import legend_of

pytestmark = pytest.mark.timeout(900)
"""An alert has four minutes to fire and five to clear."""
WINDOW = "10s"
"""In place of Grafana's ``$__rate_interval``."""


@pytest.fixture(scope="module")
def system(
    kafka: Kafka | ExternalService, registry: Registry | ExternalService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MonitoredSystem]:
    """The product on SQLite, under traffic, with Prometheus; no alert fires, and there is something to show."""
    folder = tmp_path_factory.mktemp("incidents")
    url = create_sqlite(folder)
    deployment = Deployment(url, settings_for(kafka, registry, url), kafka.client_config, folder)
    with closing(deployment):
        try:
            running = MonitoredSystem(deployment, folder)
        except ServiceError as error:
            skip_or_fail(error)
        with running:
            query = running.prometheus.query
            wait_until(lambda: query("outbox_relay_last_commit_timestamp_seconds > 0"), "rows are sent")
            wait_until(lambda: not running.prometheus.firing(), "no alert fires")
            wait_until(lambda: not unanswered(running), "every panel has an answer", 60)
            yield running


def unanswered(system: MonitoredSystem) -> list[str]:
    """Return the panels whose queries have no result, or one that is no number."""
    found = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            results = system.prometheus.query(target["expr"].replace("$__rate_interval", WINDOW))
            if not results or not all(isfinite(value) for each in results for _, value in each.values):
                found.append(f"{panel['title']}: {target['expr']}: {results}")
    return found


def shown(system: MonitoredSystem, title: str) -> dict[str, float]:
    """Return what a panel shows now: the last value of each line, by its legend."""
    (panel,) = (each for each in dashboard()["panels"] if each["title"] == title)
    return {
        legend_of(target["legendFormat"], found.labels): found.values[-1][1]
        for target in panel["targets"]
        for found in system.prometheus.query(target["expr"].replace("$__rate_interval", WINDOW))
    }


def look_at_stopped_relay(system: MonitoredSystem) -> None:
    """Every panel has numbers, also on what a relay would export, and the incident is seen in those that concern it."""
    titles = [panel["title"] for panel in dashboard()["panels"] if "targets" in panel]
    panels = {title: shown(system, title) for title in titles}
    assert [title for title, lines in panels.items() if not lines or not all(map(isfinite, lines.values()))] == []
    assert panels["Alerts that fire"][""] >= len(incidents.relay_stopped().alerts)
    assert panels["Rows to Kafka, by delivery time"] == {"within 5 s": 0, "later": 0}
    assert panels["Transactions"] == {"committed": 0, "not known to be committed": 0}
    assert panels["Rows"]["pending"] > 0
    assert panels["Oldest pending row"]["age"] > 5
    assert panels["Shards"] == {"owned": 0, "unowned": 1, "paused": 0}
    assert panels["Degraded"] == {"no relay: no relay": 1}
    assert panels["Time since the last commit"].keys() == {"any relay"}
    assert panels["Time since the last commit"]["any relay"] > 5


def test_the_dashboard_is_as_its_queries_say() -> None:
    """After a change, ``python -m deploy.grafana.dashboard`` writes it anew."""
    assert json.loads(FILE.read_text()) == dashboard()


def test_every_panel_has_an_answer_while_all_is_well(system: MonitoredSystem) -> None:
    """Not empty, and no query divides by zero; an operator's change is annotated."""
    wait_until(lambda: not unanswered(system), "every panel has an answer")
    operate(system, "pause", "--for", "1s", "--reason", "looking")
    query = ANNOTATIONS["Operators"][0].replace("$__rate_interval", WINDOW)
    (change,) = wait_until(lambda: system.prometheus.query(query), "the change is annotated")
    assert change.labels == {"verb": "pause"}


def test_a_failing_endpoint_is_seen_and_every_panel_has_an_answer(system: MonitoredSystem) -> None:
    """Its first alert fires and clears, and nothing on the dashboard is empty meanwhile."""
    incident = incidents.inference_fails()._replace(alerts=("CircuitOpen",))
    play(system, incident, lambda: wait_until(lambda: not unanswered(system), "every panel has an answer"))


def test_a_changed_secret_is_seen(system: MonitoredSystem) -> None:
    """An alert fires, and clears when the secret is right again."""
    play(system, incidents.secret_rotated())


def test_a_stopped_relay_is_seen(system: MonitoredSystem) -> None:
    """Prometheus misses it, its shard has no owner, and rows wait; all of it clears with the next relay. The dashboard
    shows it, and no panel is empty.
    """
    look = partial(look_at_stopped_relay, system)
    play(system, incidents.relay_stopped(), lambda: wait_until_passes(look))  # not all panels change with an alert
