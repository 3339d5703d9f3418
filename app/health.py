"""Whether the process is alive, and whether it can take an interaction."""

import shutil
import threading
from pathlib import Path
from time import monotonic

import structlog
from flask import Blueprint, Response, current_app, jsonify

from app.problems import problem
from outbox.errors import MIGRATE, OutboxError, SchemaOutdatedError, UnsafeDatabaseError
from outbox.store import Store

log = structlog.get_logger(__name__)
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
        self._detail = ""
        self._good_until = 0.0

    def reason(self) -> str | None:
        """Why no interaction can be taken now; None if one can."""
        with self._lock:
            if monotonic() >= self._good_until:
                self._note(*self._look())
                self._good_until = monotonic() + GOOD_FOR_SECONDS
            return self._reason

    def _note(self, reason: str | None, detail: str) -> None:
        if (reason, detail) != (self._reason, self._detail):
            log.warning("readiness has changed: %s", detail or "interactions can be stored", action="readiness")
        self._reason, self._detail = reason, detail

    def _look(self) -> tuple[str | None, str]:
        """The reason for everybody who asks, and the one for the log."""
        try:
            self._store.check_writable()
        except SchemaOutdatedError as error:
            return f"the database schema is older than this code needs: {MIGRATE}", str(error)
        except UnsafeDatabaseError as error:
            return "the database is not safe to use, the log says why", str(error)
        except OutboxError as error:
            return "the database takes no write", str(error)
        if self._database_file and shutil.disk_usage(self._database_file.resolve().parent).free < MIN_FREE_BYTES:
            return "the disk of the database is full", "the disk of the database is full"
        return None, ""


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
