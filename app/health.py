"""Liveness (``/healthz``) and readiness (``/readyz``) of the web process."""

import shutil
import threading
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import structlog
from flask import Blueprint, Response, current_app, jsonify

from app.metrics import has_token
from app.problem_details import problem
from outbox.errors import MIGRATE, OutboxError, SchemaOutdatedError, UnsafeDatabaseError
from outbox.store import Store

log = structlog.get_logger(__name__)
blueprint = Blueprint("health", __name__)

CHECK_INTERVAL_SECONDS = 1.0
IDLE_SECONDS = 60.0
"""The checks stop when readiness was not requested for this long."""
STALE_SECONDS = 3.0
"""If the last check is older than this, the database does not respond."""
FIRST_CHECK_TIMEOUT_SECONDS = 1.0
"""How long a request waits for the first check."""
MIN_FREE_BYTES = 64 * 2**20


class NotReady(NamedTuple):
    """Why no interaction can be stored.

    Attributes:
        reason: For clients.
        log_reason: For the log.
    """

    reason: str
    log_reason: str


class Readiness:
    """Whether the database accepts writes. A thread checks once a second, so that requests need not wait.

    Args:
        store: The outbox.
        database_file: SQLite's file, whose disk must not be full. None with a server.
    """

    def __init__(self, store: Store, database_file: Path | None) -> None:
        self._store, self._database_file = store, database_file
        self._checked = threading.Condition()
        self._thread: threading.Thread | None = None
        self._not_ready: NotReady | None = None
        self._checked_at = self._requested_at = float("-inf")

    def reason(self) -> str | None:
        """Why no interaction can be stored; None if one can."""
        with self._checked:
            now = self._requested_at = monotonic()
            if self._thread is None or not self._thread.is_alive():  # not earlier: threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="readiness", daemon=True)
                self._thread.start()
                self._checked.wait_for(lambda: self._checked_at >= now, FIRST_CHECK_TIMEOUT_SECONDS)
            if self._not_ready is None and monotonic() - self._checked_at > STALE_SECONDS:
                self._set(_not_ready("the database does not respond"))
            return self._not_ready and self._not_ready.reason

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            result = self._check()
            with self._checked:
                self._set(result)
                self._checked_at = monotonic()
                self._checked.notify_all()
                if self._checked_at - self._requested_at > IDLE_SECONDS:
                    self._thread = None
                    return
            pause.wait(CHECK_INTERVAL_SECONDS)

    def _set(self, result: NotReady | None) -> None:
        if result is None and self._not_ready is not None:
            log.warning("ready: interactions can be stored", action="ready")
        elif result is not None and result != self._not_ready:
            log.warning("not ready: %s", result.log_reason, action="not_ready")
        self._not_ready = result

    def _check(self) -> NotReady | None:
        try:
            self._store.check_writable()
            return self._check_disk()
        except SchemaOutdatedError as error:
            return NotReady(f"the database schema is older than this code requires: {MIGRATE}", str(error))
        except UnsafeDatabaseError as error:
            return NotReady("the database is not safe to use; see the log", str(error))
        except OutboxError as error:
            return NotReady("the database accepts no writes", str(error))
        except Exception as error:  # noqa: BLE001 - the thread must survive every error
            return _not_ready(f"the database cannot be checked: {type(error).__name__}")

    def _check_disk(self) -> NotReady | None:
        if self._database_file and shutil.disk_usage(self._database_file.resolve().parent).free < MIN_FREE_BYTES:
            return _not_ready("the disk of the database is full")
        return None


def _not_ready(reason: str) -> NotReady:
    return NotReady(reason, reason)


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process is alive. Does not access the database."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response:
    """An interaction could be stored now. Does not depend on Kafka: while it is down, the outbox stores rows.

    If ``METRICS_TOKEN`` is set, the reason is shown only to requests with the token.
    """
    reason = current_app.extensions["readiness"].reason()
    if reason is None:
        return jsonify(status="ready")
    detail = f"No interaction can be stored now: {reason}" if has_token() else "No interaction can be stored now"
    return problem(503, detail, retry_after_seconds=2)
