"""Group commit: concurrent requests share one database transaction and one fsync.

One thread in each process writes. While it commits, further requests queue up and become the next batch. A lone
request is committed at once. After a batch of several requests the writer waits briefly, so that the next batch grows.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter, sleep

import structlog

from app.metrics import COMMIT_SECONDS
from config.logging import frames
from outbox.errors import DatabaseUnavailableError, OutboxError
from outbox.models import NewRow, RecordOutcome
from outbox.store import Store

log = structlog.get_logger(__name__)

MAX_BATCH_ROWS = 500
MAX_BATCH_BYTES = 8 * 2**20
LINGER_SECONDS = 0.002
"""Each batch costs about 0.5 ms of GIL time whatever its size, so a short wait for more rows leaves more time to the
request threads."""
REQUEST_TIMEOUT_SECONDS = 10.0
"""How long after its arrival a request is answered, committed or not. A retry finds the row if it was committed."""
HUNG_COMMIT_SECONDS = 2.0
"""A commit that takes longer counts as hung: further requests are refused at once if enough others wait for it."""
LOG_INTERVAL_SECONDS = 1.0
"""Minimum time between two log lines of an outage whose reason changes."""


class PendingWrite:
    """A row that waits for its commit. A bare lock is the cheapest way to wake the request's thread."""

    __slots__ = ("abandoned", "done", "outcome", "row")

    def __init__(self, row: NewRow) -> None:
        self.row = row
        self.outcome: RecordOutcome | Exception = DatabaseUnavailableError("not committed")
        self.abandoned = False
        self.done = threading.Lock()
        self.done.acquire()

    def finish(self, outcome: RecordOutcome | Exception) -> None:
        """Wake the request's thread, which returns the outcome, or raises it if it is an exception."""
        self.outcome = outcome
        self.done.release()


class GroupCommitter:
    """Commits rows for the request threads of one process.

    Args:
        store: Where rows are committed.
        max_waiting: Number of requests that may wait for a hung commit. It is smaller than the number of threads, so
            that the remaining threads can refuse further requests at once. None: no limit.
        linger: Waits for the given seconds while the next batch grows.
    """

    def __init__(self, store: Store, max_waiting: int | None = None, linger: Callable[[float], object] = sleep) -> None:
        self.store = store
        self._max_waiting, self._linger = max_waiting, linger
        self._queue: SimpleQueue[PendingWrite] = SimpleQueue()
        self._start = threading.Lock()
        self._writer: threading.Thread | None = None
        self._last_batch_shared = False
        """Whether the last batch was of several requests."""
        self._committing: list[PendingWrite] = []
        self._committing_since = 0.0
        self._failed_rows = 0
        """Rows not committed since the last success."""
        self._logged_reason, self._logged_at = "", 0.0

    def record(self, row: NewRow, arrived: float | None = None) -> RecordOutcome:
        """Commit a row.

        Args:
            row: The row.
            arrived: When its request arrived, by ``time.monotonic``. None: now.

        Raises:
            OutboxError: It is unknown whether the row was committed; a retry is safe.
        """
        seconds = self._seconds_left(monotonic() if arrived is None else arrived)
        if seconds <= 0:
            raise DatabaseUnavailableError("the database does not commit in time")
        self._ensure_writer()
        pending = PendingWrite(row)
        self._queue.put(pending)
        if not pending.done.acquire(timeout=seconds):
            pending.abandoned = True  # the writer skips it, unless it is already committing it
            raise DatabaseUnavailableError("the database did not commit in time")
        if isinstance(pending.outcome, Exception):
            raise pending.outcome
        return pending.outcome

    @property
    def queued(self) -> int:
        """Number of rows that wait for the next batch."""
        return self._queue.qsize()

    def _seconds_left(self, arrived: float) -> float:
        """How long a request may wait for its commit."""
        now = monotonic()
        left = arrived + REQUEST_TIMEOUT_SECONDS - now
        if self._max_waiting is None or self.queued + len(self._committing) < self._max_waiting:
            return left
        is_hung = bool(self._committing) and now - self._committing_since > HUNG_COMMIT_SECONDS
        return 0.0 if is_hung else min(left, HUNG_COMMIT_SECONDS)

    def _ensure_writer(self) -> None:
        """Start the writer with the first request, not earlier: threads do not survive a fork."""
        if self._writer is None or not self._writer.is_alive():
            with self._start:
                if self._writer is None or not self._writer.is_alive():
                    self._writer = threading.Thread(target=self._run, name="group-commit", daemon=True)
                    self._writer.start()

    def _run(self) -> None:
        while True:
            batch = [pending for pending in self._next_batch() if not pending.abandoned]
            if batch:
                self._commit(batch)

    def _next_batch(self) -> list[PendingWrite]:
        batch = [self._queue.get()]
        if self._last_batch_shared:
            self._linger(LINGER_SECONDS)
        size = len(batch[0].row.payload)
        while len(batch) < MAX_BATCH_ROWS and size < MAX_BATCH_BYTES:
            try:
                batch.append(self._queue.get_nowait())
            except Empty:
                break
            size += len(batch[-1].row.payload)
        self._last_batch_shared = len(batch) > 1
        return batch

    def _commit(self, batch: list[PendingWrite]) -> None:
        began = perf_counter()
        self._committing, self._committing_since = batch, monotonic()
        try:
            outcomes = self.store.record([pending.row for pending in batch])
        except Exception as error:  # noqa: BLE001 - the writer must survive every error
            self._fail(batch, error)
            return
        finally:
            self._committing = []
        COMMIT_SECONDS.observe(perf_counter() - began)
        if self._failed_rows:
            log.warning("commits recovered after %d failed interactions", self._failed_rows, action="commit_recovered")
            self._failed_rows, self._logged_reason = 0, ""
        for pending, outcome in zip(batch, outcomes, strict=True):
            pending.finish(outcome)
        self.store.notify(outcomes)

    def _fail(self, batch: list[PendingWrite], error: Exception) -> None:
        if not isinstance(error, OutboxError):  # its message is not logged: it may quote a row
            kind = type(error).__name__
            log.error("unexpected error in group commit: %s", kind, action="unexpected", trace=frames(error))
            error = DatabaseUnavailableError(kind)
        self._log_failure(str(error))
        self._failed_rows += len(batch)
        for pending in batch:
            pending.finish(error)

    def _log_failure(self, reason: str) -> None:
        """Log an outage once, and again if its reason changes."""
        now = monotonic()
        if reason == self._logged_reason or (self._failed_rows and now - self._logged_at < LOG_INTERVAL_SECONDS):
            return
        self._logged_reason, self._logged_at = reason, now
        log.warning("commit failed, senders are asked to retry: %s", reason, action="commit_failed")
