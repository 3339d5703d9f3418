"""``python -m tests.deploy.alerts``: bring each incident about, and write the table in ``docs/alerts.md``.

Web and relay run on a broker and a PostgreSQL of their own, and a real Prometheus scrapes them.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import time

from deploy.grafana.dashboard import DASHBOARD
from testkit import ROOT
from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.preload import build_preload_library
from testkit.services import ExternalService, Kafka, Postgres, Registry
from testkit.waiting import wait_until
from tests.deploy import incidents, service_incidents
from tests.deploy.incidents import Incident, SeenAlert, play
from tests.deploy.monitored_system import MonitoredSystem
from tests.deploy.picture import Span, draw

PAGE = ROOT / "docs" / "alerts.md"
PICTURE = ROOT / "docs" / "images" / "incident.svg"
PANELS = ("Requests by outcome", "Rows to Kafka, by delivery time", "Rows", "Oldest pending row")
"""In the picture."""
CAN_MOUNT = os.geteuid() == 0
"""Needed for a small disk; without it that incident is not played."""
BEGIN, END = "<!-- incidents: python -m tests.deploy.alerts -->\n", "<!-- /incidents -->\n"


@contextmanager
def running_system(folder: Path) -> Iterator[tuple[MonitoredSystem, Kafka, Postgres]]:
    """Start everything for the block."""
    with ExitStack() as stack:
        kafka, postgres = Kafka(folder / "kafka"), Postgres(folder / "postgres")
        registry = ExternalService.registry() or Registry(folder / "registry")
        for service in (kafka, postgres, registry):
            if not isinstance(service, ExternalService):
                stack.callback(service.stop)
                service.start()
        if CAN_MOUNT:
            (disk := folder / "disk").mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", disk], check=True)
            stack.callback(lambda: subprocess.run(["umount", "--lazy", disk], check=True))
        url = postgres.create_database("outbox").replace("postgresql://", "postgresql+psycopg://")
        migrate(url, 2)
        deployment = Deployment(url, settings_for(kafka, registry, url), kafka.client_config, folder)
        stack.callback(deployment.close)
        yield stack.enter_context(MonitoredSystem(deployment, folder)), kafka, postgres


def incidents_on(kafka: Kafka, postgres: Postgres, folder: Path) -> list[Incident]:
    """Return every incident, in the order of the table."""
    return [
        incidents.relay_stopped(),
        incidents.web_stopped(),
        service_incidents.broker_stopped(kafka),
        service_incidents.database_stopped(postgres),
        service_incidents.database_read_only(postgres),
        incidents.secret_rotated(),
        incidents.invalid_bodies(),
        incidents.placeholder(),
        incidents.row_parked(),
        incidents.inference_fails(),
        incidents.calls_rejected(),
        incidents.token_refused(),
        incidents.shards_paused(),
        service_incidents.record_copied(),
        service_incidents.verification_hindered(kafka),
        service_incidents.verification_ended(),
        service_incidents.database_slow(),
        service_incidents.progress_refused(),
        service_incidents.progress_lost(),
        service_incidents.kafka_went_back(kafka, folder),
        incidents.database_went_back(),
        service_incidents.interactions_stop(),
        incidents.clock_wrong(build_preload_library(ROOT / "tests/faults/wrong_clock.c", folder), folder),
        *([service_incidents.disk_low(folder / "disk")] if CAN_MOUNT else []),
    ]


def played(system: MonitoredSystem, incident: Incident) -> list[SeenAlert]:
    """Play an incident; of the first one, draw the picture."""
    began, mended = time(), [0.0]
    seen = play(system, incident, lambda: mended.append(time()))
    if incident.name == incidents.relay_stopped().name:
        queries = {
            panel.title: panel.queries for group in DASHBOARD.values() for panel in group if panel.title in PANELS
        }
        span = Span(began, mended[-1], time())
        PICTURE.write_text(draw(system.prometheus, f"Incident: {incident.name}", span, queries))
    return seen


def rows_of(incident: Incident, seen: list[SeenAlert]) -> Iterator[str]:
    """Yield a row of the table for each alert, the expected ones first, in the order in which they fired."""
    title = incident.name
    for alert in sorted(seen, key=lambda each: (each.name not in incident.alerts, each.fired_seconds)):
        name = alert.name if alert.name in incident.alerts else f"({alert.name})"
        yield f"| {title} | {name} | {alert.fired_seconds:.0f} | {alert.cleared_seconds:.0f} | {alert.summary} |\n"
        title = ""


def main() -> None:
    """Play the incidents, or those whose names contain an argument; all of them write the table."""
    wanted = sys.argv[1:]
    lines = ["| incident | alert | fired after s | cleared after s | summary |\n", "|---|---|---|---|---|\n"]
    with tempfile.TemporaryDirectory() as name, running_system(Path(name)) as (system, kafka, postgres):
        sent = "sum(increase(cxone_kafka_messages_processed_total[20s])) > 80"
        wait_until(lambda: system.prometheus.query(sent), "rows have been sent for a while")
        wait_until(lambda: not system.prometheus.firing(), "no alert fires at first", 120)
        for incident in incidents_on(kafka, postgres, Path(name)):
            if not wanted or any(part in incident.name for part in wanted):
                for line in rows_of(incident, played(system, incident)):
                    sys.stdout.write(line)
                    sys.stdout.flush()
                    lines.append(line)
    if not wanted:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{''.join(lines)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
