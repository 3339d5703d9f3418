"""``/metrics``: the console's own."""

from flask import Blueprint, Response, current_app, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from config.bearer import is_bearer
from outbox.operators.planned_change import Verb

blueprint = Blueprint("metrics", __name__)
EXTENSION = "console_metrics"

disable_created_metrics()  # type: ignore[no-untyped-call] # they double the number of series


class ConsoleMetrics:
    """Counts requests, changes and logins of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "outbox_console_requests", "Requests, by page and status.", ["page", "status"], registry=self.registry
        )
        self.changes = Counter(
            "outbox_console_changes", "Changes that were confirmed, by verb.", ["verb"], registry=self.registry
        )
        self.logins = Counter(
            "outbox_console_logins",
            "Tries to sign in, by outcome: accepted, refused, throttled, busy, failed.",
            ["outcome"],
            registry=self.registry,
        )
        for verb in Verb:
            self.changes.labels(verb)
        for outcome in ("accepted", "refused", "throttled", "busy", "failed"):
            self.logins.labels(outcome)
        ProcessCollector(registry=self.registry)


def metrics() -> ConsoleMetrics:
    """Return those of the application that handles the request."""
    found: ConsoleMetrics = current_app.extensions[EXTENSION]
    return found


def count(response: Response) -> Response:
    """Count a request."""
    metrics().requests.labels(request.endpoint or "none", str(response.status_code)).inc()
    return response


@blueprint.get("/metrics")
def show() -> Response:
    """Show the metrics, protected by ``METRICS_TOKEN`` if it is set."""
    token: str | None = current_app.config["METRICS_TOKEN"]
    if token is not None and not is_bearer(request.headers.get("Authorization", ""), token.encode()):
        raise Unauthorized("Send METRICS_TOKEN as a bearer token.", www_authenticate=WWWAuthenticate("bearer"))
    return Response(generate_latest(metrics().registry), content_type=CONTENT_TYPE_LATEST)
