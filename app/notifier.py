"""Notifies relays of committed rows, from a thread that neither requests nor commits wait for.

A notification is a transaction of the server and costs as much CPU as a small commit, so under load one covers the rows
of several batches.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from time import sleep

import structlog

from config.logging import frames
from outbox.models import RecordOutcome
from outbox.store import Store

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 0.005
"""After a notification. The first one after a pause is sent at once."""


class Notifier:
    """Sends notifications in the background. One that is lost, as when the process ends, costs time and no row.

    Args:
        store: Where the rows are committed.
        pause_seconds: How long to wait after each notification.
    """

    def __init__(self, store: Store, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._store, self._pause_seconds = store, pause_seconds
        self._changed = threading.Condition()
        self._outcomes: list[RecordOutcome] = []
        self._thread: threading.Thread | None = None

    def notify(self, outcomes: Sequence[RecordOutcome]) -> None:
        """Notify relays soon of rows that were just committed."""
        with self._changed:
            self._outcomes += outcomes
            self._changed.notify()
            if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
                with suppress(RuntimeError):  # no thread available: the next call tries again
                    self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outcomes)
                outcomes, self._outcomes = self._outcomes, []
            try:
                self._store.notify(outcomes)
            except Exception as error:  # noqa: BLE001 - the thread must survive every error
                _log_unexpected(error)
            sleep(self._pause_seconds)


def _log_unexpected(error: Exception) -> None:
    kind = type(error).__name__  # its message is not logged: it may quote a row
    log.error("unexpected error in a notification: %s", kind, action="unexpected", frames=frames(error))
