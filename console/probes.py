"""Liveness (``/healthz``) and readiness (``/readyz``) of the console."""

import structlog
from flask import Blueprint, Response, jsonify

from console.dependencies import dependencies
from outbox.errors import OutboxError

log = structlog.get_logger(__name__)
blueprint = Blueprint("probes", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process is alive. Does not access the database."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    """The database answers. Does not depend on Kafka, which only some pages ask."""
    try:
        dependencies().store.identity()
    except OutboxError as error:
        log.warning("not ready: %s", error, action="not_ready")
        return jsonify(status="not ready"), 503
    return jsonify(status="ready"), 200
