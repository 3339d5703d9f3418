"""docs/metrics.md describes exactly the metrics that web and relay export."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families

from outbox.db.engine import create_outbox_engine
from outbox.store import Store
from testkit import ROOT
from testkit.databases import NewDatabase
from testkit.deployment import settings_for
from testkit.relay_process import RelayProcess
from testkit.rows import new_row
from testkit.services import ExternalService, Kafka, Registry
from testkit.waiting import wait_until
from testkit.web_process import PATH, SECRET, WebProcess

DEAD = "http://127.0.0.1:9"
"""Nothing listens there, so every call is retried."""
LIBRARY = ("python_", "process_")


class Described(NamedTuple):
    """A metric, as the page or a scrape describes it."""

    kind: str
    labels: frozenset[str]


def page(heading: str) -> dict[str, Described]:
    """The table under a heading of the page."""
    section = (ROOT / "docs/metrics.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| `")]
    return {
        name.strip("`"): Described(kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for _, name, kind, labels, *_ in rows
    }


def scraped(text: str) -> dict[str, Described]:
    """Every metric in a scrape that has values."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if family.samples and not name.startswith(LIBRARY):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = Described(family.type, frozenset(labels))
    return found


def check(scrape: Callable[[], str], heading: str) -> None:
    """Wait until every metric of the page has values, then compare."""
    described = page(heading)
    wait_until(lambda: described.keys() <= scraped(scrape()).keys(), f"all of {sorted(described)} have values")
    assert scraped(scrape()) == described


def test_the_page_describes_the_metrics_of_web(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """Names, types and labels; no metric is missing, and none is described that does not exist."""
    web = WebProcess({"DATABASE_URL": new_sqlite()}, tmp_path / "web.log")
    try:
        web.post({"id": "{contactId}", "channel": "v"}, Content_Type="application/x-www-form-urlencoded")
        check(lambda: requests.get(f"{web.base}/metrics", timeout=5).text, "Web")
    finally:
        web.stop()


def test_every_series_of_the_webhook_exists_before_its_first_event(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """A request adds to series that exist, and makes none, with a hundred secrets too."""
    secrets = [f"tests={SECRET}", *(f"s{number}=another-secret-of-the-tests-{number}" for number in range(100))]
    web = WebProcess({"DATABASE_URL": new_sqlite(), "CXONE_WEBHOOK_SECRETS": ",".join(secrets)}, tmp_path / "web.log")

    def series() -> dict[str, float]:
        families = text_string_to_metric_families(requests.get(f"{web.base}/metrics", timeout=5).text)
        return {f"{s.name} {sorted(s.labels.items())}": s.value for family in families for s in family.samples}

    try:
        before = series()
        requests.get(f"{web.base}/elsewhere", timeout=5)
        requests.get(f"{web.base}{PATH}", timeout=5)
        web.post({"id": 1, "channel": "v"}, secret="wrong")
        for body in ({"id": 1, "channel": "v"}, {"id": 1, "channel": "v"}, {"id": 1}, b"{"):
            web.post(body)
        after = series()
    finally:
        web.stop()
    assert before.keys() == after.keys()
    requested = {name for name in after if name.startswith("outbox_webhook_requests_total") and after[name]}
    assert len(requested) == 7
    assert not any(before[name] for name in requested)
    counts = {name for name in after if name.startswith("outbox_webhook_request_seconds_count") and after[name]}
    assert len(counts) == 7


def test_process_metrics_of_web_are_of_all_its_processes(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """Whichever process answers; CPU time does not go back when one is replaced."""
    web = WebProcess({"DATABASE_URL": new_sqlite(), "WEB_CONCURRENCY": "2"}, tmp_path / "web.log")

    def children() -> list[psutil.Process]:
        return psutil.Process(web.process.pid).children()

    try:
        wait_until(lambda: len(children()) == 2, "two processes run")
        resident = sum(process.memory_info().rss for process in children())
        wait_until(lambda: web.metric("process_resident_memory_bytes") > resident, "both and their master are counted")
        assert web.metric("process_start_time_seconds") == psutil.Process(web.process.pid).create_time()
        assert 0 < web.metric("process_open_fds") < web.metric("process_max_fds")
        before, replaced = web.metric("process_cpu_seconds_total"), children()[0]
        replaced.kill()
        wait_until(lambda: len(children()) == 2 and replaced not in children(), "the process is replaced")
        assert web.metric("process_cpu_seconds_total") >= before > 0
    finally:
        web.stop()


def test_the_page_describes_the_metrics_of_the_relay(
    new_sqlite: NewDatabase, kafka: Kafka | ExternalService, registry: Registry | ExternalService, tmp_path: Path
) -> None:
    """While inference and CXone are down; the delivery histogram counts every row."""
    environ = {
        **settings_for(kafka, registry, new_sqlite()),
        "INFERENCE_URL": DEAD,
        "CXONE_ENRICH_URL": f"{DEAD}/{{interactionId}}",
        "CXONE_OAUTH_URL": DEAD,
        "CXONE_CLIENT_ID": "id",
        "CXONE_CLIENT_SECRET": "a-secret-of-the-tests",
        "CXONE_ENRICH_ON_OUTAGE": "send",
    }
    engine = create_outbox_engine(environ["DATABASE_URL"])
    store = Store(engine)
    relay = RelayProcess(environ, tmp_path / "relay.log")
    try:
        store.record([new_row(f"i-{number}", customer_email=None) for number in range(700)])
        wait_until(lambda: not store.status()[0].pending, "every row is sent")
        check(lambda: relay.get("/metrics"), "Relay")
        counts = [
            line for line in relay.get("/metrics").splitlines() if line.startswith("outbox_delivery_seconds_count")
        ]
        assert counts == ["outbox_delivery_seconds_count 700.0"]
    finally:
        relay.kill()
        engine.dispose()
