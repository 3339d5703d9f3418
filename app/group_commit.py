"""Group commit: requests that come together share one database transaction and one fsync.

One thread a process writes. While it commits, further requests queue up and form the next batch. A lone request is
committed at once; where requests come together, the next batch is given a moment to grow.
"""

import threading
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
GATHER_SECONDS = 0.002
"""That moment: a batch costs half a millisecond of the interpreter however small it is, which the requests lack."""
PATIENCE_SECONDS = 10.0
"""How long after its arrival a request is answered, committed or not; a sender that repeats it finds its row."""
HUNG_SECONDS = 2.0
"""A commit that takes longer hangs: from then on requests are refused at once where enough others wait for it."""


SAME_REASON_SECONDS = 1.0
"""Between two log lines of one outage at least; each is of another reason."""


class _Waiting:
    """A request that waits for its commit. A bare lock is the cheapest way to wake its thread."""

    __slots__ = ("abandoned", "done", "outcome", "row")

    def __init__(self, row: NewRow) -> None:
        self.row = row
        self.outcome: RecordOutcome | Exception = DatabaseUnavailableError("not committed")
        self.abandoned = False
        self.done = threading.Lock()
        self.done.acquire()

    def finish(self, outcome: RecordOutcome | Exception) -> None:
        """Wake the request's thread with this outcome; an error is raised there."""
        self.outcome = outcome
        self.done.release()


class GroupCommitter:
    """Records rows for the threads of one process.

    Args:
        store: of the outbox.
        most_waiting: requests that may wait for a commit that hangs; fewer than there are threads, so that the others
            are refused without waiting for a thread. None: any number.
    """

    def __init__(self, store: Store, most_waiting: int | None = None) -> None:
        self._store, self._most_waiting = store, most_waiting
        self._queue: SimpleQueue[_Waiting] = SimpleQueue()
        self._start = threading.Lock()
        self._writer: threading.Thread | None = None
        self._in_company = False
        """Whether the batch before was of several requests."""
        self._batch: list[_Waiting] = []
        """What is being committed."""
        self._committing_since = 0.0
        self._failed = 0
        """Interactions not committed since the last success."""
        self._told, self._told_at = "", 0.0
        """The reason that was logged last, and when."""

    def record(self, row: NewRow, arrived: float | None = None) -> RecordOutcome:
        """Commit a row and return its outcome.

        Args:
            row: the interaction.
            arrived: when its request came, by ``time.monotonic``; None: now.

        Raises:
            OutboxError: it is not known to be committed; repeating is safe.
        """
        seconds = self._seconds_left(monotonic() if arrived is None else arrived)
        if seconds <= 0:
            raise DatabaseUnavailableError("the database does not commit in time")
        self._ensure_writer()
        waiting = _Waiting(row)
        self._queue.put(waiting)
        if not waiting.done.acquire(timeout=seconds):
            waiting.abandoned = True  # if it is not being written yet, it will not be
            raise DatabaseUnavailableError("the database did not commit in time")
        if isinstance(waiting.outcome, Exception):
            raise waiting.outcome
        return waiting.outcome

    def _seconds_left(self, arrived: float) -> float:
        """How long a request may wait for its commit."""
        now = monotonic()
        left = arrived + PATIENCE_SECONDS - now
        if self._most_waiting is None or self._queue.qsize() + len(self._batch) < self._most_waiting:
            return left
        hangs = bool(self._batch) and now - self._committing_since > HUNG_SECONDS
        return 0.0 if hangs else min(left, HUNG_SECONDS)

    def _ensure_writer(self) -> None:
        """The thread is started by the first request: threads do not survive a fork."""
        if self._writer is None or not self._writer.is_alive():
            with self._start:
                if self._writer is None or not self._writer.is_alive():
                    self._writer = threading.Thread(target=self._write, name="recorder", daemon=True)
                    self._writer.start()

    def _write(self) -> None:
        while True:
            batch = [w for w in self._gather() if not w.abandoned]
            if batch:
                self._commit(batch)

    def _gather(self) -> list[_Waiting]:
        batch = [self._queue.get()]
        if self._in_company:
            sleep(GATHER_SECONDS)
        size = len(batch[0].row.payload)
        while len(batch) < MAX_BATCH_ROWS and size < MAX_BATCH_BYTES:
            try:
                batch.append(self._queue.get_nowait())
            except Empty:
                break
            size += len(batch[-1].row.payload)
        self._in_company = len(batch) > 1
        return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        began = perf_counter()
        self._batch, self._committing_since = batch, monotonic()
        try:
            outcomes = self._store.record([waiting.row for waiting in batch])
        except Exception as error:  # noqa: BLE001 - the writer must outlive whatever happens
            self._fail(batch, error)
            return
        finally:
            self._batch = []
        COMMIT_SECONDS.observe(perf_counter() - began)
        if self._failed:
            log.warning("interactions are committed again; %d were not", self._failed, action="committed_again")
            self._failed, self._told = 0, ""
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.finish(outcome)
        self._store.notify(outcomes)

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        if not isinstance(error, OutboxError):  # not its message: it may quote a row
            kind = type(error).__name__
            log.error("the recorder failed unexpectedly: %s", kind, action="unexpected", trace=frames(error))
            error = DatabaseUnavailableError(kind)
        now = monotonic()
        if str(error) != self._told and (not self._failed or now - self._told_at >= SAME_REASON_SECONDS):
            self._told, self._told_at = str(error), now
            log.warning(
                "interactions are not committed, senders are told to come again: %s",
                error,
                action="not_committed",
            )
        self._failed += len(batch)
        for waiting in batch:
            waiting.finish(error)
