"""Web and relay without the work of their metrics, to measure what that costs; the product cannot switch them off.

As a module it is ``python -m relay``; ``create_app`` is gunicorn's application. What is replaced: each increment, set
and observation, the snapshots that web's processes publish for each other, and what both count in the database.
"""

import threading
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from flask import Flask


def create_app() -> "Flask":
    """Return web's application."""
    from app.backlog_metrics import BacklogMetrics
    from app.factory import create_app_from_environ
    from app.shared_metrics import SharedMetrics

    _replace_updates((SharedMetrics, "publish"), (BacklogMetrics, "start"))
    return create_app_from_environ()


def main() -> None:
    """Run the relay."""
    from outbox.operators.audit import AuditTotals
    from relay.cli import main as relay
    from relay.metrics import DeliveryHistogram
    from relay.process import backlog_metrics

    _replace_updates((DeliveryHistogram, "observe"), (AuditTotals, "read"))
    vars(backlog_metrics)["repeat"] = _wait
    relay(prog_name="relay")


UPDATES = (
    (Counter, "inc"), (Histogram, "observe"), (Gauge, "inc"), (Gauge, "dec"), (Gauge, "set"),
    (Gauge, "set_to_current_time"),
)  # fmt: skip
"""Of the Prometheus library."""


def _replace_updates(*others: tuple[type, str]) -> None:
    for kind, method in (*UPDATES, *others):
        setattr(kind, method, _nothing)


def _nothing(*_: object) -> list[object]:
    """Update or publish nothing; a snapshot has no metrics."""
    return []


def _wait(_what: str, _work: object, stop: threading.Event, **_: object) -> None:
    """Wait for the end instead of working again and again."""
    stop.wait()


if __name__ == "__main__":
    main()
