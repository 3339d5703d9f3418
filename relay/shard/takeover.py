"""Take a shard over: steps 1 to 4 of docs/delivery.md.

The lease decides who owns the shard. The progress record that is read back decides what was committed.
"""

import threading
from dataclasses import dataclass

import structlog

from outbox.errors import OutboxError, OutboxMismatchError
from outbox.models import Lease, RecordRef
from outbox.progress import Acknowledgement
from relay.kafka.producer import Publisher
from relay.kafka.progress import StoredProgress
from relay.shard import recovery
from relay.shard.services import ShardServices

log = structlog.get_logger(__name__)


@dataclass
class OwnedShard:
    """A shard that this process owns: its lease and its producer."""

    lease: Lease
    publisher: Publisher
    renewed_at: float
    """When the lease was last renewed, by the services' clock."""
    rows_since_renewal: int = 0
    record: RecordRef | None = None
    """The progress record that was acknowledged last."""


class Takeover:
    """Takes one shard over and gives it back.

    Args:
        shard: its number, from 0.
        services: of the process.
        stop: ends every wait for Kafka.
    """

    def __init__(self, shard: int, services: ShardServices, stop: threading.Event) -> None:
        self._shard, self._services, self._stop = shard, services, stop
        self._lease: Lease | None = None

    def take(self) -> OwnedShard | None:
        """Take the lease, check the outbox's identity, fence earlier producers; None if another process owns it.

        Raises:
            OutboxMismatchError: the outbox was used with other topics or another cluster; nobody has been fenced.
        """
        services, shard = self._services, self._shard
        lease = services.leases.take(shard, services.dead_owner(shard))
        if lease is None:
            return None
        self._lease = lease
        services.step("leased", shard)
        try:
            services.check_identity()  # before an earlier producer is fenced
        except OutboxMismatchError:
            self.release()  # a relay with the right settings need not wait for the lease to expire
            raise
        publisher = services.clients.publisher(shard, self._stop.is_set)
        try:
            publisher.fence()
        except BaseException:
            publisher.close()
            raise
        services.step("fenced", shard)
        return OwnedShard(lease, publisher, services.clock())

    def recover(self, owned: OwnedShard) -> None:
        """Read the last progress record back, and mark the rows that it proves to be committed.

        Raises:
            DatabaseWentBackError, KafkaWentBackError: nothing may be sent before an operator reconciles the shard.
        """
        services, shard = self._services, self._shard
        record = services.clients.read_back(shard, self._stop.is_set)
        services.step("read_back", shard)
        outcome = acknowledge(services, owned.lease, record)
        services.metrics.recoveries.labels(recovery.recovery_label(outcome)).inc()
        recovery.report(f"shard {shard}", owned.lease, outcome, record)
        ref = record.ref if record else None
        recovery.ensure_in_order(outcome, ref)
        owned.record = ref
        owned.lease = owned.lease._replace(acknowledged_sequence=acknowledged_sequence(outcome, ref))
        services.step("acknowledged", shard)

    def release(self) -> None:
        """Give the lease back, so that nobody has to wait for it to expire."""
        if self._lease is None:
            return
        try:
            self._services.leases.release(self._lease)
        except OutboxError:
            log.info(
                "shard %d: the lease could not be released; it expires by itself", self._shard, action="lease_left"
            )


def acknowledge(services: ShardServices, lease: Lease, record: StoredProgress | None) -> Acknowledgement:
    """Mark the rows that a progress record proves to be committed.

    Args:
        services: of the process.
        record: the shard's last one; None if there is none.
    """
    ref, refs = (record.ref, record.progress.refs) if record else (None, ())
    return services.store.acknowledge_record(lease, ref, refs, inference=services.inference)


def acknowledged_sequence(outcome: Acknowledgement, record: RecordRef | None) -> int:
    """The shard's last acknowledged sequence after ``acknowledge``."""
    return max(outcome.shard.acknowledged_sequence, record.sequence if record else 0)
