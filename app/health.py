"""Whether the process is alive, and whether it can take an interaction."""

import shutil
import threading
from pathlib import Path
from time import monotonic

from flask import Blueprint, Response, current_app, jsonify

from app.problems import problem
from outbox.errors import OutboxError
from outbox.store import Store

blueprint = Blueprint("health", __name__)

GOOD_FOR_SECONDS = 1.0
MIN_FREE_BYTES = 64 * 2**20


class Readiness:
    """Whether a write goes through, looked up about once a second.

    Args:
        store: of the outbox.
        database_file: of SQLite, whose disk must not be full; None with a server.
    """

    def __init__(self, store: Store, database_file: Path | None) -> None:
        self._store, self._database_file = store, database_file
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._good_until = 0.0

    def reason(self) -> str | None:
        """Why no interaction can be taken now; None if one can."""
        with self._lock:
            if monotonic() >= self._good_until:
                self._reason = self._look()
                self._good_until = monotonic() + GOOD_FOR_SECONDS
            return self._reason

    def _look(self) -> str | None:
        try:
            self._store.check_writable()
        except OutboxError as error:
            return f"{type(error).__name__.removesuffix('Error')}: see the log"
        if self._database_file and shutil.disk_usage(self._database_file.resolve().parent).free < MIN_FREE_BYTES:
            return "the disk of the database is full"
        return None


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process is alive; the database is not asked."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response:
    """An interaction could be taken now. Says nothing about Kafka: the outbox takes in what Kafka cannot."""
    reason = current_app.extensions["readiness"].reason()
    if reason is not None:
        return problem(503, f"No interaction can be stored now: {reason}", retry_after_seconds=2)
    return jsonify(status="ready")
