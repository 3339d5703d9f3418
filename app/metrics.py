"""Metrics of the web process; ``shared_metrics`` adds up those of several processes."""

from collections.abc import Iterable
from functools import cache
from itertools import product

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
from config.bearer import is_bearer

for _collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
    REGISTRY.unregister(_collector)  # they describe whichever process answers, not the service

disable_created_metrics()  # type: ignore[no-untyped-call] # they double the number of series

NO_LABEL = "none"
"""The label of a request without a valid secret."""
UNAUTHENTICATED = ("unauthorized", "not_found", "method_not_allowed", "unexpected")
"""Outcomes of requests whose secret is not valid, or not known."""
AUTHENTICATED = (
    "accepted", "duplicate", "rate_limited", "encoded", "too_large", "too_slow", "not_http", "bad_key", "backlog",
    "not_json", "invalid", "refused", "key_reused", "unavailable",
)  # fmt: skip
"""Outcomes of requests with a valid secret."""

REQUESTS = Counter(
    "outbox_webhook_requests",
    "Webhook requests, by outcome and by label of the secret in the request.",
    ["outcome", "secret"],
)
COMMIT_SECONDS = Histogram(
    "outbox_ingest_commit_seconds",
    "Duration of a group commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REQUEST_SECONDS = Histogram(
    "outbox_webhook_request_seconds",
    "From the first byte of a webhook request until its response is ready, by outcome.",
    ["outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10),
)
request_seconds = cache(REQUEST_SECONDS.labels)
request_counter = cache(REQUESTS.labels)
"""The counter of an outcome and a label. Without the cache the lookup would cost as much as the rest of a request."""
CLOSED_REASONS = ("head_too_slow", "head_too_large", "answer_not_taken", "too_many")
CLOSED = Counter(
    "outbox_webhook_connections_closed",
    f"Connections closed by the server, by reason: {', '.join(CLOSED_REASONS)}.",
    ["reason"],
)
FORM_LABELLED = Counter("outbox_webhook_form_labelled", "JSON bodies whose content type says form data.")
PLACEHOLDERS = Counter(
    "outbox_webhook_placeholders",
    "Interactions accepted with a placeholder such as {contactId} instead of a value.",
)


def initialise(labels: Iterable[str]) -> None:
    """Export every series from the start: the rate of one that appears with its first event lacks that event.

    Args:
        labels: Labels of the secrets.
    """
    for outcome, label in [*product(UNAUTHENTICATED, (NO_LABEL,)), *product(AUTHENTICATED, labels)]:
        request_counter(outcome, label)
        request_seconds(outcome)
    for reason in CLOSED_REASONS:
        CLOSED.labels(reason)


blueprint = Blueprint("metrics", __name__)
_shared: list[SharedMetrics] = []


def share(slots: SharedSlots, slot: int | None) -> None:
    """Add up the metrics with those of the other processes from now on.

    Args:
        slots: Shared with the other processes.
        slot: Slot of this process; None if all were taken.
    """
    _shared[:] = [SharedMetrics(REGISTRY, slots, slot)]
    _shared[0].start()


def publish() -> None:
    """Publish a last snapshot, which outlives this process."""
    for metrics in _shared:
        metrics.publish()


def has_token() -> bool:
    """Whether the request has ``METRICS_TOKEN``, or no token is set."""
    token: str | None = current_app.config["METRICS_TOKEN"]
    return token is None or is_bearer(request.headers.get("Authorization", ""), token.encode())


@blueprint.get("/metrics")
def metrics() -> Response:
    """Prometheus metrics, protected by ``METRICS_TOKEN`` if it is set."""
    if not has_token():
        refusal = problem(401, "Send METRICS_TOKEN as a bearer token")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal
    registry = _shared[0] if _shared else REGISTRY
    own = generate_latest(current_app.extensions["own_metrics"])  # of this process only
    return Response(generate_latest(registry) + own, content_type=CONTENT_TYPE_LATEST)
