"""One shard, strictly in sequence: take it over, then select, encode, commit in Kafka, mark sent, and repeat.

Every error of a Kafka transaction has the same remedy: drop the producer and take the shard over again.
"""

import threading
from enum import Enum
from math import inf
from random import Random
from time import time
from typing import NamedTuple

import structlog

from outbox.errors import DatabaseUnavailableError, LeaseLostError, OutboxError, OutboxMismatchError
from outbox.models import Lease, PendingRow, RecordRef, RowRef
from outbox.progress import ProgressVerdict
from relay.backoff import Backoff, pause_after
from relay.errors import (
    BatchRefusedError,
    DatabaseWentBackError,
    KafkaWentBackError,
    RelayError,
    RowsAtFaultError,
    StoppedError,
    TimestampsRefusedError,
    TransactionFailedError,
    UnavailableError,
)
from relay.health import report_unexpected
from relay.kafka import progress
from relay.kafka.progress import Progress
from relay.kafka.record import Record
from relay.shard import recovery
from relay.shard.batch_size import BatchSize
from relay.shard.bisector import BatchBisector
from relay.shard.pacing import Pacing
from relay.shard.services import ShardServices
from relay.shard.takeover import OwnedShard, Takeover

log = structlog.get_logger(__name__)

PROGRESS_CHECK_SECONDS = (50.0, 70.0)
"""After this long without sending, a shard reads its last progress record and compares it with the acknowledged one: an
idle shard would not notice otherwise that Kafka went back in time. Random, so that shards do not keep step."""
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.005, 1.0
"""Between two selects."""
BROKER_STUCK = (
    "if this lasts although the topic's setting is right, restart the broker: a broker that refuses the end of a "
    "transaction for its time, too, does not try again"
)
"""Kafka 4.3 does so with a limit of a few milliseconds."""
MAX_POLL_SECONDS = 0.1
"""Longest pause while notifications do not work."""


class Remaining(Enum):
    """What a shard has left to send after a cycle."""

    MORE = "there may be more rows: select again at once"
    WAITING = "only rows that wait for CXone: select again soon"
    NONE = "no rows: wait for a notification"


class Batch(NamedTuple):
    """The rows of one transaction."""

    rows: list[PendingRow]
    records: list[Record]
    draining: bool


def is_draining(selected: int, sendable: int, limit: int) -> bool:
    """Whether the shard drains a backlog: a batch is full, and CXone holds at most half of it back.

    Args:
        selected: rows that are pending, at most one window.
        sendable: of those, the rows that do not wait for CXone.
        limit: rows in a full batch.
    """
    return selected >= limit and sendable >= limit / 2


def remaining(selected: int, sent: int, limit: int, *, notified: bool) -> Remaining:
    """What is left after a transaction.

    Args:
        selected: rows that were pending, at most one window.
        sent: of those, the rows that were sent.
        limit: rows in a full batch.
        notified: whether the shard is notified of new rows.
    """
    return Remaining.NONE if sent == selected < limit and notified else Remaining.MORE


class ShardWorker:
    """Sends one shard's rows until it is stopped.

    Args:
        shard: its number, from 0.
        services: of the process.
        stop: ends it after the batch in hand.
    """

    def __init__(self, shard: int, services: ShardServices, stop: threading.Event) -> None:
        self.shard = shard
        self.subject = f"shard {shard}"
        self.owned = False
        """Whether it sends rows."""
        self.healthy_at = services.clock()
        """When it last made progress, or waited for something that no other relay could change."""
        self.wake = threading.Event()
        """Set when the shard has new rows, and at the stop."""
        self._services, self._stop = services, stop
        self._takeover = Takeover(shard, services, stop)
        self._random = Random()  # noqa: S311 - jitter, not cryptography
        self._backoff = Backoff(self._random)
        self._size = BatchSize(services.batch_size)
        self._pacing = Pacing(services.clock)
        self._bisector = BatchBisector(self._random)
        self._rejected: dict[RowRef, str] = {}
        """Rows to park, with their errors, as soon as no transaction is open."""
        self._timestamps_refused = ""
        """The reason, until a cycle succeeds."""
        self._check_at = inf
        """When to compare the last progress record."""

    def run(self) -> None:
        """Take the shard over and send, through every error, until the stop or until another process owns it."""
        while not self._stop.is_set():
            try:
                if not self._take_over_and_send():
                    break
            except StoppedError:
                break
            except LeaseLostError as lost:
                log.info("%s: lease lost: %s", self.subject, lost, action="lease_lost", shard=self.shard)
                self._stop.wait(self._backoff.failed())
            except BatchRefusedError as refused:
                log.warning("%s: %s", self.subject, refused, action="batch_refused", shard=self.shard)
            except (RelayError, OutboxError) as error:
                self._wait_after(error, str(error))
            except Exception as error:  # noqa: BLE001 - one shard's bug must not end the others
                self._wait_after(error, report_unexpected(log, self.subject, error))
        self._takeover.release()

    def _take_over_and_send(self) -> bool:
        """Own the shard until an error or the stop; False if another process owns it."""
        owned = self._takeover.take()
        if owned is None:
            return False
        try:
            self.recover(owned)
            self.owned = True
            self._send(owned)
        except (DatabaseWentBackError, KafkaWentBackError):
            self._takeover.release()  # nothing is sent, so relay reconcile need not wait for the lease to expire
            raise
        finally:
            self.owned = False
            owned.publisher.close()
        return True

    def recover(self, owned: OwnedShard) -> None:
        """Mark what the last progress record proves, then park the rejected rows: no transaction is open now.

        Raises:
            DatabaseWentBackError, KafkaWentBackError: nothing may be sent before an operator reconciles the shard.
        """
        self._takeover.recover(owned)
        self._schedule_check()
        self._park_rejected(owned.lease)

    # Sending ---------------------------------------------------------------------------------------

    def _send(self, owned: OwnedShard) -> None:
        """Send until the stop, or until the shard has to be taken over again."""
        pause = MIN_PAUSE_SECONDS
        while True:
            self.wake.clear()  # before the select: a later notification announces rows that the select may miss
            if self._stop.is_set():
                return
            notified = self._services.listener.is_working  # before the select, as above
            with self._services.send_slots.slot():
                left = self.cycle(owned, notified=notified)
            self._report_healthy(owned)
            if self._services.clock() >= self._check_at and self._progress_changed(owned):
                return
            if left is Remaining.MORE:
                pause = MIN_PAUSE_SECONDS
            elif left is Remaining.NONE and notified:
                self._stop.wait(self._pacing.pause_seconds())
                self.wake.wait(MAX_PAUSE_SECONDS)
            else:
                self.wake.wait(pause)
                pause = min(pause * 2, MAX_PAUSE_SECONDS if notified else MAX_POLL_SECONDS)

    def cycle(self, owned: OwnedShard, *, notified: bool) -> Remaining:
        """Select, encode, commit, mark: one transaction.

        Args:
            owned: the shard.
            notified: whether the shard is notified of rows that are committed during the cycle.
        """
        services = self._services
        limit = min(self._size.rows, self._bisector.max_rows or self._size.rows)
        window = self._bisector.window(services.batch_size)
        self._pacing.selecting()
        rows = services.store.pending(owned.lease, window, block_behind_parked=services.block_behind_parked)
        if not rows:
            services.drain_signal.caught_up(self.shard)
            self._bisector.reset()
            return Remaining.NONE
        self._step("selected")
        try:
            batch = self._prepare(rows, limit)
        except RowsAtFaultError as error:
            self._rejected = dict(error.errors)
            self._park_rejected(owned.lease)
            return Remaining.MORE
        if batch is None:
            return Remaining.WAITING
        self._commit_and_mark(owned, batch)
        return remaining(len(rows), len(batch.rows), limit, notified=notified)

    def _prepare(self, rows: list[PendingRow], limit: int) -> Batch | None:
        """Enrich, choose and encode; None if every row waits for CXone.

        Raises:
            RowsAtFaultError: rows that can never be sent.
        """
        sendable = self._services.enrich(rows)
        if not sendable:
            self._services.drain_signal.caught_up(self.shard)
            return None
        chosen = self._bisector.choose(sendable, limit)
        return Batch(chosen, self._services.encoder.records(chosen), is_draining(len(rows), len(sendable), limit))

    def _commit_and_mark(self, owned: OwnedShard, batch: Batch) -> None:
        """Commit the batch with its progress record in Kafka, then mark its rows sent."""
        refs = [RowRef._make(row[:2]) for row in batch.rows]  # faster than row.ref, for thousands of rows
        sequence = owned.lease.acknowledged_sequence + 1
        value = progress.encode(
            Progress(self._services.clients.outbox_id, self.shard, owned.lease.epoch, sequence, refs)
        )
        self._step("encoded")
        offset = self._commit(owned, batch, value)
        self._step("committed")
        self._mark(owned, progress.ref_of(sequence, offset, value), refs)
        self._step("marked")
        self._services.drain_signal.rows_sent(self.shard, full_batch=batch.draining)
        # If the database went back in time, it acknowledged nothing, and the next select raises LeaseLostError.
        owned.lease = owned.lease._replace(acknowledged_sequence=sequence)
        owned.rows_since_renewal += len(batch.rows)

    def _commit(self, owned: OwnedShard, batch: Batch, value: bytes) -> int:
        """Commit the batch; returns the offset of the progress record."""
        metrics, clock, rows = self._services.metrics, self._services.clock, batch.rows
        began = clock()
        try:
            with self._services.tracer.batch_span(
                "kafka transaction",
                "PRODUCER",
                (row.traceparent for row in rows),
                {"messaging.system": "kafka", "messaging.batch.message_count": len(rows), "outbox.shard": self.shard},
            ):
                offset = owned.publisher.publish(batch.records, value, lambda: self._renew(owned, force=False))
        except BatchRefusedError as refused:
            metrics.aborts.inc()
            metrics.retries.labels("kafka", "refused").inc()
            self.healthy_at = clock()  # another relay would be refused too, and would bisect from the start
            self._reject(rows, str(refused))
            raise
        except (RelayError, OutboxError):
            metrics.aborts.inc()
            self._size.failed(len(rows), clock() - began)
            raise
        seconds = clock() - began
        self._size.committed(len(rows), seconds)
        self._pacing.sent(len(rows))
        self._bisector.committed(rows)
        metrics.committed([row.received_at_ms for row in rows], seconds, int(time() * 1000))
        return offset

    def _mark(self, owned: OwnedShard, record: RecordRef, refs: list[RowRef]) -> None:
        """Mark what was committed.

        Raises:
            LeaseLostError: another epoch holds the shard, and only a read-back shows what was committed.
            KafkaWentBackError: nothing may be sent before an operator reconciles the shard.
        """
        outcome = self._services.store.mark_sent(owned.lease, record, refs, inference=self._services.inference)
        if outcome.verdict is ProgressVerdict.KAFKA_WENT_BACK:
            self._services.metrics.recoveries.labels(str(outcome.verdict)).inc()
            recovery.ensure_in_order(outcome, record)
        owned.record = record
        self._schedule_check()

    def _reject(self, rows: list[PendingRow], reason: str) -> None:
        """Remember the row that Kafka refused, if it was alone; it is parked at the next takeover."""
        rejected = self._bisector.refused(rows, reason)
        if rejected is not None:
            self._rejected = {rejected.ref: reason}

    def _park_rejected(self, lease: Lease) -> None:
        """Park the rejected rows under the shard's lock, while no transaction is open."""
        if not self._rejected:
            return
        parked = self._services.store.park(lease, self._rejected)
        for ref, error in self._rejected.items():
            log.error("row %d parked: %s", ref.id, error, action="parked", shard=self.shard, outbox_id=ref.id)
        log.info("%s: %d row(s) parked", self.subject, parked, action="parked_rows", shard=self.shard)
        self._rejected = {}
        self._step("parked")

    # Checking an idle shard ------------------------------------------------------------------------

    def _schedule_check(self) -> None:
        self._check_at = self._services.clock() + self._random.uniform(*PROGRESS_CHECK_SECONDS)

    def _progress_changed(self, owned: OwnedShard) -> bool:
        """Whether the last progress record in Kafka is another one than the record that was acknowledged last."""
        found = self._services.clients.read_back(self.shard, self._stop.is_set)
        if (found.ref if found else None) == owned.record:
            self._schedule_check()
            self._size.slow = None  # nothing was sent since, so no rows wait
            return False
        log.warning(
            "%s: the last progress record in Kafka is not the one that was acknowledged; the shard is taken over again",
            self.subject, action="progress_changed", shard=self.shard,
        )  # fmt: skip
        return True

    # Health and lease ------------------------------------------------------------------------------

    def _report_healthy(self, owned: OwnedShard) -> None:
        """Record a cycle that succeeded, and renew the lease when it is due or the condition changed."""
        self._backoff.succeeded()
        self._timestamps_refused = ""
        slow, health = self._size.slow, self._services.health
        changed = health.degraded(self.subject, slow) if slow else health.recovered(self.subject)
        self._renew(owned, force=changed)

    def _renew(self, owned: OwnedShard, *, force: bool) -> None:
        """Renew the lease after a third of its time, or at once. Called also while Kafka takes in a transaction."""
        leases, now = self._services.leases, self._services.clock()
        self.healthy_at = now
        elapsed = now - owned.renewed_at
        if force or elapsed >= leases.lease_seconds / 3:
            condition = self._size.slow or self._services.health.shared_condition()
            leases.renew(owned.lease, owned.rows_since_renewal / max(elapsed, 0.001), condition)
            owned.renewed_at, owned.rows_since_renewal = self._services.clock(), 0

    def _wait_after(self, error: Exception, reason: str) -> None:
        """Report an error and wait before the next takeover."""
        if isinstance(error, OutboxMismatchError):  # another relay may have the right settings
            self.healthy_at = -inf
        elif not isinstance(error, UnavailableError):  # another relay would have the same error
            self.healthy_at = self._services.clock()
        if isinstance(error, TimestampsRefusedError):
            self._timestamps_refused = reason
        elif self._timestamps_refused and isinstance(error, TransactionFailedError):
            reason = f"{reason}; before that: {self._timestamps_refused}; {BROKER_STUCK}"
        self._services.metrics.retries.labels("shard", type(error).__name__).inc()
        changed = self._services.health.degraded(self.subject, reason)
        # A database that is down is not queried a second time.
        if changed or not isinstance(error, DatabaseUnavailableError):
            self._store_condition(reason)
        self._stop.wait(pause_after(error, self._backoff))

    def _store_condition(self, reason: str) -> None:
        """Store it at each attempt: it may have failed before, or have been cleared by another process."""
        try:
            self._services.leases.report(self.shard, reason)
        except OutboxError:
            log.debug("%s: the condition cannot be stored: database error", self.subject, action="condition_not_stored")

    def _step(self, name: str) -> None:
        self._services.step(name, self.shard)
