"""Whether the process is alive, and whether it can take an interaction."""

import shutil
import threading
from pathlib import Path
from time import monotonic

import structlog
from flask import Blueprint, Response, current_app, jsonify

from app.metrics import shows_token
from app.problem_details import problem
from outbox.errors import MIGRATE, OutboxError, SchemaOutdatedError, UnsafeDatabaseError
from outbox.store import Store

log = structlog.get_logger(__name__)
blueprint = Blueprint("health", __name__)

LOOK_SECONDS = 1.0
"""From one look to the next, while somebody asks."""
ASKED_SECONDS = 60.0
"""For how long after a question there are further looks."""
SILENT_SECONDS = 3.0
"""A look that takes longer than this has its answer: the database does not answer."""
FIRST_LOOK_SECONDS = 1.0
"""How long a question waits, where there was no look for long."""
MIN_FREE_BYTES = 64 * 2**20


class Readiness:
    """Whether a write goes through. A thread looks about once a second, so that whoever asks need not wait.

    Args:
        store: of the outbox.
        database_file: of SQLite, whose disk must not be full; None with a server.
    """

    def __init__(self, store: Store, database_file: Path | None) -> None:
        self._store, self._database_file = store, database_file
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._reason: str | None = None
        self._detail = ""
        self._seen_at = self._asked_at = float("-inf")

    def reason(self) -> str | None:
        """Why no interaction can be taken now; None if one can."""
        with self._changed:
            now = self._asked_at = monotonic()
            if self._thread is None or not self._thread.is_alive():  # not before: threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="readiness", daemon=True)
                self._thread.start()
                self._changed.wait_for(lambda: self._seen_at >= now, FIRST_LOOK_SECONDS)
            if self._reason is None and monotonic() - self._seen_at > SILENT_SECONDS:
                self._note(*_twice("the database does not answer"))
            return self._reason

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            reason, detail = self._look()
            with self._changed:
                self._note(reason, detail)
                self._seen_at = monotonic()
                self._changed.notify_all()
                if self._seen_at - self._asked_at > ASKED_SECONDS:
                    self._thread = None
                    return
            pause.wait(LOOK_SECONDS)

    def _note(self, reason: str | None, detail: str) -> None:
        if (reason, detail) != (self._reason, self._detail):
            log.warning("readiness has changed: %s", detail or "interactions can be stored", action="readiness")
        self._reason, self._detail = reason, detail

    def _look(self) -> tuple[str | None, str]:
        """The reason for everybody who asks, and the one for the log."""
        try:
            self._store.check_writable()
            return self._disk()
        except SchemaOutdatedError as error:
            return f"the database schema is older than this code needs: {MIGRATE}", str(error)
        except UnsafeDatabaseError as error:
            return "the database is not safe to use, the log says why", str(error)
        except OutboxError as error:
            return "the database takes no write", str(error)
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever happens
            return _twice(f"the database cannot be looked at: {type(error).__name__}")

    def _disk(self) -> tuple[str | None, str]:
        if self._database_file and shutil.disk_usage(self._database_file.resolve().parent).free < MIN_FREE_BYTES:
            return _twice("the disk of the database is full")
        return None, ""


def _twice(reason: str) -> tuple[str, str]:
    """A reason that everybody may see as it stands in the log."""
    return reason, reason


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process is alive; the database is not asked."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response:
    """An interaction could be taken now. Says nothing about Kafka: the outbox takes in what Kafka cannot.

    The reason is for those who show ``METRICS_TOKEN``, where one is set.
    """
    reason = current_app.extensions["readiness"].reason()
    if reason is None:
        return jsonify(status="ready")
    detail = f"No interaction can be stored now: {reason}" if shows_token() else "No interaction can be stored now"
    return problem(503, detail, retry_after_seconds=2)
