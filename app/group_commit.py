"""Group commit: concurrent requests share one database transaction and one fsync.

One thread in each process writes. While it commits, further requests queue up and become the next batch. The server
announces each request that has arrived completely. As long as such requests are on their way to the queue, a batch
waits briefly for them; if all of them wait already, as a lone request does, it is committed at once.
"""

import threading
from collections import deque
from time import monotonic, perf_counter

import structlog

from app.metrics import COMMIT_SECONDS
from app.notifier import Notifier
from config.logging import frames
from outbox.errors import DatabaseUnavailableError, OutboxError
from outbox.models import NewRow, RecordOutcome
from outbox.store import Store

log = structlog.get_logger(__name__)

MAX_BATCH_ROWS = 500
MAX_BATCH_BYTES = 8 * 2**20
RESERVED_THREADS = 2
"""Threads that refuse requests while the others wait for a hung commit."""
LINGER_SECONDS = 0.005
"""How long a batch waits for requests under way, at most: they need only CPU, but one may be slow. Each batch costs
about 0.5 ms of GIL time whatever its size, so larger ones leave more time to the request threads."""
REQUEST_TIMEOUT_SECONDS = 10.0
"""How long after its arrival a request is answered, committed or not. A retry finds the row if it was committed."""
ANSWER_SECONDS = 6.0
"""How long the database may leave a commit unanswered before it is repeated on another connection: longer than the
server waits for a lock, and short enough for a second attempt within the request's time."""
HUNG_COMMIT_SECONDS = 2.0
"""A commit that takes longer counts as hung: further requests are refused at once if enough others wait for it."""
LOG_INTERVAL_SECONDS = 1.0
"""Minimum time between two log lines of an outage whose reason changes."""


class Arrival:
    """A request that has arrived.

    Attributes:
        time: Of its first byte, by ``time.monotonic``.
        is_under_way: Whether the next batch waits for its row.
    """

    __slots__ = ("is_under_way", "time")

    def __init__(self, time: float, *, is_under_way: bool = False) -> None:
        self.time, self.is_under_way = time, is_under_way


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
        threads: Number of request threads. All but ``RESERVED_THREADS`` may wait for a hung commit. None: no limit.
        notifier: Notifies relays of committed rows. None: they are not notified.
        linger_seconds: How long a batch waits for requests under way.
    """

    def __init__(
        self,
        store: Store,
        threads: int | None = None,
        notifier: Notifier | None = None,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self.store = store
        self._threads, self._notifier, self._linger_seconds = threads, notifier, linger_seconds
        self._changed = threading.Condition()
        """Guards ``_queue`` and ``_under_way``."""
        self._queue: deque[PendingWrite] = deque()
        self._under_way = 0
        """Number of requests that have arrived completely, and do not wait yet."""
        self._start = threading.Lock()
        self._writer: threading.Thread | None = None
        self._committing: list[PendingWrite] = []
        self._committing_since = 0.0
        self._failed_rows = 0
        """Rows not committed since the last success."""
        self._logged_reason, self._logged_at = "", 0.0

    def expect(self, arrived: float) -> Arrival:
        """Announce a request that has arrived completely: a batch waits for its row until it is dismissed.

        Args:
            arrived: When its first byte arrived, by ``time.monotonic``.
        """
        with self._changed:
            self._under_way += 1
        return Arrival(arrived, is_under_way=True)

    def dismiss(self, arrival: Arrival) -> None:
        """Expect no row of this request any more; does nothing if it was recorded, or dismissed before."""
        if arrival.is_under_way:
            with self._changed:
                self._leave(arrival)

    def record(self, row: NewRow, arrival: Arrival | None = None) -> RecordOutcome:
        """Commit a row.

        Args:
            row: The row.
            arrival: Of its request. None: it has just arrived.

        Raises:
            OutboxError: It is unknown whether the row was committed; a retry is safe.
        """
        arrival = arrival or Arrival(monotonic())
        seconds = self._seconds_left(arrival.time)
        if seconds <= 0:
            raise DatabaseUnavailableError("the database does not commit in time")
        self._ensure_writer()
        pending = PendingWrite(row)
        with self._changed:
            self._queue.append(pending)
            self._leave(arrival)
        if not pending.done.acquire(timeout=seconds):
            pending.abandoned = True  # the writer skips it, unless it is already committing it
            raise DatabaseUnavailableError("the database did not commit in time")
        if isinstance(pending.outcome, Exception):
            raise pending.outcome
        return pending.outcome

    @property
    def queued(self) -> int:
        """Number of rows that wait for the next batch."""
        return len(self._queue)

    def _seconds_left(self, arrived: float) -> float:
        """How long a request may wait for its commit."""
        now = monotonic()
        left = arrived + REQUEST_TIMEOUT_SECONDS - now
        if self._threads is None or self.queued + len(self._committing) < max(1, self._threads - RESERVED_THREADS):
            return left
        is_hung = bool(self._committing) and now - self._committing_since > HUNG_COMMIT_SECONDS
        return 0.0 if is_hung else min(left, HUNG_COMMIT_SECONDS)

    def _leave(self, arrival: Arrival) -> None:
        """Count a request as no longer under way; the caller holds the lock."""
        if arrival.is_under_way:
            arrival.is_under_way = False
            self._under_way -= 1
        if len(self._queue) == 1 or self._is_complete():
            self._changed.notify()

    def _is_complete(self) -> bool:
        """Whether no further request can join the batch: none is under way, or all threads wait."""
        return self._under_way == 0 or (self._threads is not None and len(self._queue) >= self._threads)

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
        batch: list[PendingWrite] = []
        size = 0
        with self._changed:
            self._changed.wait_for(lambda: self._queue)
            self._changed.wait_for(self._is_complete, self._linger_seconds)
            while self._queue and len(batch) < MAX_BATCH_ROWS and size < MAX_BATCH_BYTES:
                batch.append(self._queue.popleft())
                size += len(batch[-1].row.payload)
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
        if self._notifier is not None:
            self._notifier.notify(outcomes)

    def _fail(self, batch: list[PendingWrite], error: Exception) -> None:
        if not isinstance(error, OutboxError):  # its message is not logged: it may quote a row
            kind = type(error).__name__
            log.error("unexpected error in group commit: %s", kind, action="unexpected", frames=frames(error))
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
