"""The web process's metrics, kept in its memory: see ``app.shared_metrics`` for those of several processes."""

import hmac
from functools import cache

from flask import Blueprint, Response, current_app, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    REGISTRY,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from app.problem_details import problem
from app.shared_metrics import SharedMetrics, SharedSlots

for _collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
    REGISTRY.unregister(_collector)  # of whichever process answers: no figure of the service

disable_created_metrics()  # type: ignore[no-untyped-call] # they double the number of series

REQUESTS = Counter(
    "outbox_webhook_requests",
    "Webhook requests by outcome, and by the label of the secret that was shown.",
    ["outcome", "secret"],
)
COMMIT_SECONDS = Histogram(
    "outbox_ingest_commit_seconds",
    "Of one group commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
request_counter = cache(REQUESTS.labels)
"""The counter of an outcome and a secret's label; looking one up anew each time costs as much as the rest."""
CLOSED = Counter(
    "outbox_webhook_connections_closed",
    "Connections that were given up, by reason: head_too_slow, head_too_large, answer_not_taken, too_many.",
    ["reason"],
)
FORM_LABELLED = Counter("outbox_webhook_form_labelled", "JSON bodies that came labelled as form data.")
PLACEHOLDERS = Counter(
    "outbox_webhook_placeholders", "Interactions accepted with a placeholder, as {contactId}, in place of a value."
)

blueprint = Blueprint("metrics", __name__)
_shared: list[SharedMetrics] = []


def share(slots: SharedSlots, slot: int | None) -> None:
    """Add up with other processes from now on.

    Args:
        slots: shared with them.
        slot: of this process; None if there was none left.
    """
    _shared[:] = [SharedMetrics(REGISTRY, slots, slot)]
    _shared[0].start()


def leave_copy() -> None:
    """This process ends: what it has counted stays."""
    for metrics in _shared:
        metrics.copy()


def shows_token() -> bool:
    """Whether the request shows ``METRICS_TOKEN``, or none is set."""
    token: str | None = current_app.config["METRICS_TOKEN"]
    if token is None:
        return True
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    is_token = hmac.compare_digest(shown.strip(" ").encode("latin-1", "replace"), token.encode())
    return is_token and scheme.lower() == "bearer"


@blueprint.get("/metrics")
def metrics() -> Response:
    """Prometheus metrics; behind ``METRICS_TOKEN`` where one is set."""
    if not shows_token():
        refusal = problem(401, "The metrics are behind METRICS_TOKEN: send it as a bearer token")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal
    registry = _shared[0] if _shared else REGISTRY
    own = generate_latest(current_app.extensions["own_metrics"])  # of this process alone
    return Response(generate_latest(registry) + own, content_type=CONTENT_TYPE_LATEST)
