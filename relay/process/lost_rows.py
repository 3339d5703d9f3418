"""After Kafka went back in time: find the rows marked sent that the topics lack, and make them pending again."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sqlalchemy import Engine

from outbox.models import RecordRef, RowRef
from outbox.operators import reconcile
from outbox.operators.audit import AuditContext
from outbox.operators.reconcile import SentRow
from outbox.progress import ProgressVerdict
from relay.errors import UnavailableError
from relay.kafka import progress
from relay.kafka.progress import Progress, StoredProgress
from relay.kafka.topic_scan import committed_since, complete_since
from relay.process.maintenance import ShardMaintenance
from relay.settings import kafka_client_config
from relay.shard.recovery import ShardInspection, ensure_in_order
from relay.shard.takeover import OwnedShard, acknowledge, acknowledged_sequence

CHUNK_ROWS = 500
SLACK_MS = 24 * 3600 * 1000
"""How long before the first row was received the topics are read: records carry the clocks of the relays."""


@dataclass
class ShardLoss:
    """What one shard may have lost."""

    inspection: ShardInspection
    above: int
    """Kafka has the transactions up to this sequence; 0 if that is not known or not relied on."""
    sent: int = 0
    """How many rows are marked sent by later transactions."""
    missing: list[RowRef] = field(default_factory=list)
    """Of those, the rows that the topics lack, in id order."""
    undecided: int = 0
    """Of those, how many were not found but stay marked sent: retention may have removed their records, or their topic
    was not read."""


def last_kept_sequence(
    inspection: ShardInspection, read_back: Callable[[int, int | None], StoredProgress | None]
) -> int:
    """The last transaction that Kafka kept, as far as the progress records show; 0 if they show none.

    Transactions that were committed after Kafka went back, and the record of an interrupted reconcile, have the
    acknowledged sequence or a higher one.

    Args:
        inspection: of the shard.
        read_back: reads the last record of a shard whose sequence is below a number.
    """
    kept = read_back(inspection.shard, inspection.row.acknowledged_sequence)
    return kept.ref.sequence if kept else 0


def find_lost_rows(
    engine: Engine, maintenance: ShardMaintenance, losses: Sequence[ShardLoss], on_progress: Callable[[int], None]
) -> None:
    """Read the topics, and note in each loss which of its rows they lack.

    Args:
        maintenance: of the command.
        losses: of the shards.
        on_progress: called now and then with the number of records read.

    Raises:
        UnavailableError: the topics cannot be read to their end.
    """
    not_found = {loss.inspection.shard: {row.id: row for row in _sent(engine, loss)} for loss in losses}
    received = [row.received_at_ms for rows in not_found.values() for row in rows.values()]
    kept_ms, topics = 0, tuple[str, ...]()
    if received:
        admin, records = maintenance.admin, 0
        config, topics = kafka_client_config(maintenance.settings), maintenance.settings.kafka_topics
        since = min(received) - SLACK_MS
        kept_ms = max(complete_since(admin, topic, since) for topic in topics)
        for page in chain.from_iterable(committed_since(config, maintenance.admin, topic, since) for topic in topics):
            for known in reconcile.match_records(engine, page):
                not_found.get(known.shard, {}).pop(known.id, None)
            records += len(page)
            on_progress(records)
    for loss in losses:
        classify_missing(loss, not_found[loss.inspection.shard], kept_ms, topics)


def _sent(engine: Engine, loss: ShardLoss) -> list[SentRow]:
    rows = list(reconcile.sent_above(engine, loss.inspection.shard, loss.above))
    loss.sent = len(rows)
    return rows


def classify_missing(loss: ShardLoss, not_found: Mapping[int, SentRow], kept_ms: int, topics: Collection[str]) -> None:
    """Decide which of the rows that were not found are lost.

    Args:
        loss: of a shard.
        not_found: its rows that were not found, by id.
        kept_ms: the time since when no topic has removed records, in milliseconds since the epoch.
        topics: those that were read. A replay may have gone to a topic that the settings no longer name.
    """
    read = {None, *topics}
    loss.missing = [row.ref for row in not_found.values() if row.received_at_ms >= kept_ms and row.topic in read]
    loss.undecided = len(not_found) - len(loss.missing)


def resend_lost_rows(
    engine: Engine, maintenance: ShardMaintenance, loss: ShardLoss, context: AuditContext, verb: str
) -> None:
    """Take the shard over, make its lost rows pending, and commit a progress record of the acknowledged sequence.

    It can be interrupted anywhere and repeated: the record is committed when no row is left to change, and until it is
    acknowledged the shard stays degraded, or finds everything done.

    Args:
        maintenance: of the command.
        loss: of the shard.
        context: for the audit trail.
        verb: for the audit trail.

    Raises:
        RelayError, OutboxError: also if the shard sent rows after the loss was determined.
    """
    shard, services = loss.inspection.shard, maintenance.services
    owned = maintenance.take(shard, sends=True)
    found = maintenance.read_back(shard)
    if found != loss.inspection.found:  # earlier producers are fenced, so it cannot change any more
        raise UnavailableError(f"shard {shard} sent rows meanwhile and is left unchanged: run the command again")
    outcome, ref = acknowledge(services, owned.lease, found), found.ref if found else None
    if outcome.verdict is ProgressVerdict.DATABASE_WENT_BACK:
        ensure_in_order(outcome, ref)
    for start in range(0, len(loss.missing), CHUNK_ROWS):
        reconcile.send_again(engine, owned.lease, loss.missing[start : start + CHUNK_ROWS], context)
        maintenance.renew()
    services.step("sent_again", shard)
    record = _commit_record(maintenance, owned, acknowledged_sequence(outcome, ref))
    services.step("recorded", shard)
    reconcile.advance_sequence(engine, owned.lease, record, verb, context)


def _commit_record(maintenance: ShardMaintenance, owned: OwnedShard, sequence: int) -> RecordRef:
    """Commit a progress record without rows."""
    lease, outbox_id = owned.lease, maintenance.services.clients.outbox_id
    value = progress.encode(Progress(outbox_id, lease.shard, lease.epoch, sequence, []))
    return progress.ref_of(sequence, owned.publisher.publish([], value), value)
