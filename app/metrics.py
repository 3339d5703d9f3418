"""The web process's metrics; with several processes, prometheus-client adds them up in files."""

import hmac
import os
from functools import cache

from flask import Blueprint, Response, current_app, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from app.problems import problem

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
FORM_LABELLED = Counter("outbox_webhook_form_labelled", "JSON bodies that came labelled as form data.")
PLACEHOLDERS = Counter(
    "outbox_webhook_placeholders", "Interactions accepted with a placeholder, as {contactId}, in place of a value."
)

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Prometheus metrics; behind ``METRICS_TOKEN`` where one is set."""
    token = current_app.config["METRICS_TOKEN"]
    if token is not None:
        shown = request.headers.get("Authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(shown, b"Bearer " + token.encode()):
            refusal = problem(401, "The metrics are behind METRICS_TOKEN: send it as a bearer token")
            refusal.headers["WWW-Authenticate"] = "Bearer"
            return refusal
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    own = generate_latest(current_app.extensions["own_metrics"])  # of this process alone
    return Response(generate_latest(registry) + own, content_type=CONTENT_TYPE_LATEST)
