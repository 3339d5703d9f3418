"""One shard, strictly in sequence: take it, then select, encode, commit in Kafka, mark sent, again.

Every error of a Kafka transaction takes the same way out: drop the producer and take the shard anew.
The lease decides who goes on, the progress record read back decides what is sent.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from random import Random
from time import monotonic, time

import structlog

from outbox.errors import DatabaseUnavailableError, LeaseLostError, OutboxError, OutboxMismatchError
from outbox.leases import Leases
from outbox.models import Lease, PendingRow, RecordRef, RowRef
from outbox.notifications import Listener
from outbox.store import Store
from outbox.verdicts import Verdict
from relay.backoff import Backoff, pause_after
from relay.drain_signal import DrainSignal
from relay.errors import (
    BatchRefusedError,
    DatabaseWentBackError,
    KafkaWentBackError,
    RelayError,
    RowsAtFaultError,
    StoppedError,
    UnavailableError,
)
from relay.health import Health
from relay.kafka import progress
from relay.kafka.encoder import Encoder
from relay.kafka.producer import Publisher
from relay.kafka.progress import Progress, StoredProgress
from relay.metrics import RelayMetrics
from relay.shard import recovery
from relay.shard.batch_size import BatchSize
from relay.shard.fair_semaphore import FairSemaphore

log = structlog.get_logger(__name__)

PROGRESS_CHECK_SECONDS = (50.0, 70.0)
"""After so long without a transaction, at random lest shards keep step, the last progress record is looked at:
nothing else would show an idle shard that Kafka went back in time."""
IDLE_SECONDS, UNHEARD_IDLE_SECONDS = (0.005, 1.0), 0.1
"""First and longest pause between two looks, and the longest without a bell that works."""


class Remaining(Enum):
    """What a shard has left to send after a cycle."""

    MORE = "there may be more rows: look again at once"
    SOME = "rows that wait for CXone: look again soon"
    NONE = "none: the bell tells of new ones"


def ignore_steps(_name: str, _shard: int) -> None:
    """For those who need not know where a shard stands."""


@dataclass(frozen=True)
class ShardServices:
    """What a shard's worker works with. Everything that touches the world is passed in."""

    store: Store
    leases: Leases
    encoder: Encoder
    outbox_id: str
    check_identity: Callable[[], None]
    """Raises if topics, prefix or cluster are not the ones this outbox was used with."""
    complete: Callable[[list[PendingRow]], list[PendingRow]]
    """Adds what CXone knows: of the rows selected, those that may be sent now; returns within seconds. Raises
    ``RowsAtFaultError`` for rows that it fails on alone."""
    publisher: Callable[[int], Publisher]
    """Makes the shard's producer."""
    read_back: Callable[[int], StoredProgress | None]
    """The shard's last committed progress record."""
    dead_owner: Callable[[int], str | None]
    """The shard's owner, if it is known to be dead."""
    batch_size: int
    block_behind_parked: bool
    inference: bool
    listener: Listener
    stop: threading.Event
    health: Health
    metrics: RelayMetrics
    drain_signal: DrainSignal
    """Told of each mark, and of a shard that keeps up, for the inference stage."""
    send_slots: FairSemaphore
    """Had for each cycle, with the other shards of the process."""
    step: Callable[[str, int], None]
    """Told each step as it is reached; for those who watch or kill at a given step."""


@dataclass
class OwnedShard:
    """A shard in hand: its lease, its producer, and when the lease was last prolonged."""

    lease: Lease
    publisher: Publisher
    renewed: float
    sent_since: int = 0
    record: RecordRef | None = None
    """The progress record that was settled last."""
    look_at: float = inf
    """When to see whether it is still the last one in Kafka."""


class ShardWorker:
    """Sends one shard's rows until it is stopped.

    Args:
        shard: its number, from 0.
        parts: what it works with.
    """

    def __init__(self, shard: int, shard_services: ShardServices) -> None:
        self.shard = shard
        self.subject = f"shard {shard}"
        self.holds = False
        self.healthy_at = monotonic()
        """When it was last in order, or waited for what no other relay could help."""
        self.wake = threading.Event()
        """Set when the shard has new rows, and at the stop."""
        self._services = shard_services
        self._lease: Lease | None = None
        self._random = Random()  # noqa: S311 - jitter, not cryptography
        self._backoff = Backoff(self._random)
        self._batch = BatchSize(shard_services.batch_size, self._random)
        self._suspects: dict[RowRef, str] = {}

    def run(self) -> None:
        """Take the shard and send, through every error, until the stop or until the shard is somebody else's."""
        while not self._services.stop.is_set():
            try:
                if not self._take_and_send():
                    break
            except StoppedError:
                break
            except LeaseLostError as lost:
                log.info("%s is taken anew or left: %s", self.subject, lost, action="lease_lost", shard=self.shard)
                self._services.stop.wait(self._backoff.failed())
            except BatchRefusedError as refused:
                log.warning("%s: %s", self.subject, refused, action="batch_refused", shard=self.shard)
            except (RelayError, OutboxError) as error:
                self._wait(error, str(error))
            except Exception as error:
                log.exception("%s met an error nobody expected", self.subject, action="unexpected", shard=self.shard)
                self._wait(error, f"unexpected {type(error).__name__}: see the log; please report it")
        self.give_back()

    # Taking the shard ------------------------------------------------------------------------------

    def _take_and_send(self) -> bool:
        """Whether the shard was ours to take."""
        held = self.take()
        if held is None:
            return False
        try:
            self.settle(held)
            self._park_suspects(held.lease)
            self.holds = True
            self._send(held)  # step 5
        except (DatabaseWentBackError, KafkaWentBackError):
            self.give_back()  # nothing is sent: whoever reconciles the shard need not wait for the lease
            raise
        finally:
            self.holds = False
            held.publisher.close()
        return True

    def take(self) -> OwnedShard | None:
        """Steps 1 and 2: take the lease, insist on the identity, fence earlier producers; None: it is not free."""
        lease = self._services.leases.take(self.shard, self._services.dead_owner(self.shard))
        if lease is None:
            return None
        self._lease = lease
        self._step("leased")
        try:
            self._services.check_identity()  # before anyone is fenced
        except OutboxMismatchError:
            self.give_back()  # a relay that is right need not wait for the lease
            raise
        publisher = self._services.publisher(self.shard)
        try:
            publisher.fence()
        except BaseException:
            publisher.close()
            raise
        self._step("fenced")
        return OwnedShard(lease, publisher, monotonic())

    def settle(self, held: OwnedShard) -> None:
        """Steps 3 and 4: mark what the last progress record proves, and settle its sequence.

        Raises:
            DatabaseWentBackError, KafkaWentBackError: nothing may be sent before the shard is reconciled.
        """
        record = self._services.read_back(self.shard)
        self._step("read_back")
        self._settle_what_is_committed(held, record)
        self._step("acknowledged")

    def give_back(self) -> None:
        """Let go of the lease that was taken last, so that nobody need wait for it to run out."""
        if self._lease is None:
            return
        try:
            self._services.leases.release(self._lease)
        except OutboxError:
            log.info("the lease of %s could not be given back: it runs out", self.subject, action="lease_left")

    def _settle_what_is_committed(self, held: OwnedShard, record: StoredProgress | None) -> None:
        ref, refs = (record.ref, record.progress.refs) if record else (None, ())
        done = self._services.store.settle_record(held.lease, ref, refs, inference=self._services.inference)
        self._services.metrics.recoveries.labels(recovery.recovery_label(done)).inc()
        recovery.report(self.subject, held.lease, done, record)
        recovery.ensure_in_order(done, ref)
        self._remember(held, ref)
        held.lease = held.lease._replace(
            acknowledged_sequence=max(done.shard.acknowledged_sequence, ref.sequence if ref else 0)
        )

    def _remember(self, held: OwnedShard, record: RecordRef | None) -> None:
        held.record = record
        held.look_at = monotonic() + self._random.uniform(*PROGRESS_CHECK_SECONDS)

    # Sending ---------------------------------------------------------------------------------------

    def _send(self, held: OwnedShard) -> None:
        """Send until the stop, or until the shard has to be taken anew."""
        idle_seconds = IDLE_SECONDS[0]
        while True:
            self.wake.clear()  # before looking: what is rung for from here on is looked for
            if self._services.stop.is_set():
                return
            with self._services.send_slots.turn():
                left = self._cycle(held)
            self._in_order(held)
            if monotonic() >= held.look_at and self._has_changed(held):
                return
            working = self._services.listener.is_working
            if left is Remaining.MORE:
                idle_seconds = IDLE_SECONDS[0]
            elif left is Remaining.NONE and working:
                self.wake.wait(IDLE_SECONDS[1])
            else:
                self.wake.wait(idle_seconds)
                idle_seconds = min(idle_seconds * 2, IDLE_SECONDS[1] if working else UNHEARD_IDLE_SECONDS)

    def _has_changed(self, held: OwnedShard) -> bool:
        """Whether the last progress record in Kafka is not the one that was settled last."""
        found = self._services.read_back(self.shard)
        if (found.ref if found else None) == held.record:
            self._remember(held, held.record)
            self._batch.slow = None  # nothing was sent since, so no rows wait
            return False
        log.warning(
            "%s is taken anew: its last progress record in Kafka is not the one that was settled",
            self.subject, action="progress_changed", shard=self.shard,
        )  # fmt: skip
        return True

    def _cycle(self, held: OwnedShard) -> Remaining:
        """Select, encode, commit, mark: one transaction's rows. Returns what is left to send."""
        shard_services, lease = self._services, held.lease
        limit = self._batch.limit
        rows = shard_services.store.pending(
            lease, self._batch.window, block_behind_parked=shard_services.block_behind_parked
        )
        full = len(rows) >= limit
        left = Remaining.MORE if full or not shard_services.listener.is_working else Remaining.NONE
        if not full:
            shard_services.drain_signal.caught_up(self.shard)
        if not rows:
            self._batch.nothing_left()
            return Remaining.NONE
        self._step("selected")
        try:
            selected, rows = len(rows), shard_services.complete(rows)
            if full and len(rows) < limit / 2:  # most wait for CXone: that is no drain
                full = False
                shard_services.drain_signal.caught_up(self.shard)
            if not rows:
                return Remaining.SOME
            rows = self._batch.choose(rows)
            if len(rows) < selected:
                left = Remaining.MORE
            records = shard_services.encoder.records(rows)
        except RowsAtFaultError as error:
            self._suspects = dict(error.errors)
            self._park_suspects(lease)
            return Remaining.MORE
        refs = [RowRef._make(row[:2]) for row in rows]  # as row.ref, for thousands
        sequence = lease.acknowledged_sequence + 1
        proof = progress.encode(Progress(shard_services.outbox_id, self.shard, lease.epoch, sequence, refs))
        self._step("encoded")

        def publish() -> int:
            return held.publisher.publish(records, proof, lambda: self._moves(held))

        offset = self._commit(rows, publish)
        self._step("committed")
        self._mark(held, progress.ref_of(sequence, offset, proof), refs)
        self._step("marked")
        shard_services.drain_signal.marked(self.shard, full=full)
        # What this relay settled; if the database says otherwise, the next select finds out.
        held.lease = lease._replace(acknowledged_sequence=sequence)
        held.sent_since += len(rows)
        return left

    def _mark(self, held: OwnedShard, record: RecordRef, refs: list[RowRef]) -> None:
        """Mark what was committed, unless the lease is lost: then only the next read-back tells."""
        done = self._services.store.mark_sent(held.lease, record, refs, inference=self._services.inference)
        if done.verdict is Verdict.KAFKA_WENT_BACK:
            self._services.metrics.recoveries.labels(str(done.verdict)).inc()
            recovery.ensure_in_order(done, record)
        self._remember(held, record)

    def _commit(self, rows: list[PendingRow], publish: Callable[[], int]) -> int:
        """Commit the rows; the offset of their progress record."""
        metrics, began = self._services.metrics, monotonic()
        try:
            offset = publish()
        except BatchRefusedError as refused:
            metrics.aborts.inc()
            self._remember_refusal(rows, str(refused))
            raise
        except (RelayError, OutboxError):
            metrics.aborts.inc()
            self._batch.failed(rows, monotonic() - began)
            raise
        seconds = monotonic() - began
        self._batch.committed(rows, seconds)
        metrics.transaction_seconds.observe(seconds)
        metrics.transaction_rows.observe(len(rows))
        metrics.commits.inc()
        metrics.processed.inc(len(rows))
        metrics.last_commit.set_to_current_time()
        metrics.delivery.observe([row.received_at_ms for row in rows], int(time() * 1000))
        return offset

    def _remember_refusal(self, rows: list[PendingRow], reason: str) -> None:
        """The broker refuses batches, not records: only a row that is refused alone is parked."""
        self._services.metrics.retries.labels("kafka", "refused").inc()
        culprit = self._batch.refused(rows, reason)
        if culprit is not None:
            self._suspects = {culprit.ref: reason}
            self._batch.parked(1)

    def _park_suspects(self, lease: Lease) -> None:
        """Nothing is in flight here: park, under the shard's lock, the rows known to be at fault."""
        if not self._suspects:
            return
        parked = self._services.store.park(lease, self._suspects)
        for ref, error in self._suspects.items():
            log.error("row %d is parked: %s", ref.id, error, action="parked", shard=self.shard, outbox_id=ref.id)
        log.info("%s parked %d row(s)", self.subject, parked, action="parked_rows", shard=self.shard)
        self._suspects = {}
        self._step("parked")

    # In order, or waiting --------------------------------------------------------------------------

    def _in_order(self, held: OwnedShard) -> None:
        """The cycle makes progress or idles healthily: say so, and prolong the lease when it is time."""
        self._backoff.succeeded()
        self.healthy_at = monotonic()
        slow, health = self._batch.slow, self._services.health
        news = health.degraded(self.subject, slow) if slow else health.recovered(self.subject)
        if news or self.healthy_at - held.renewed >= self._services.leases.lease_seconds / 3:
            self._renew(held, slow or health.shared_condition())

    def _moves(self, held: OwnedShard) -> None:
        """Prolong the lease when it is time, while Kafka takes more and more of the transaction in hand."""
        self.healthy_at = monotonic()
        if self.healthy_at - held.renewed >= self._services.leases.lease_seconds / 3:
            self._renew(held, self._batch.slow or self._services.health.shared_condition())

    def _renew(self, held: OwnedShard, condition: str | None) -> None:
        elapsed = monotonic() - held.renewed
        self._services.leases.renew(held.lease, held.sent_since / max(elapsed, 0.001), condition)
        held.renewed, held.sent_since = monotonic(), 0

    def _wait(self, error: Exception, reason: str) -> None:
        if isinstance(error, OutboxMismatchError):  # another relay may be right
            self.healthy_at = -inf
        elif not isinstance(error, UnavailableError):  # neither Kafka nor the way to it
            self.healthy_at = monotonic()
        self._services.metrics.retries.labels("shard", type(error).__name__).inc()
        news = self._services.health.degraded(self.subject, reason)
        if news or not isinstance(error, DatabaseUnavailableError):  # which had better not be asked twice as often
            self._report(reason)
        self._services.stop.wait(pause_after(error, self._backoff))

    def _report(self, reason: str) -> None:
        """Store it, at each attempt: it may have failed before, or somebody else have cleared it."""
        try:
            self._services.leases.report(self.shard, reason)
        except OutboxError:
            log.debug("the condition of %s cannot be stored: the database is away", self.subject)

    def _step(self, name: str) -> None:
        self._services.step(name, self.shard)
