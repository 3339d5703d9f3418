"""After Kafka went back in time: the rows marked sent that the topics lack, and how their shard may send again."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sqlalchemy import Engine

from outbox.models import AuditContext, RecordRef, RowRef
from outbox.operators import reconcile
from outbox.operators.reconcile import SentRow
from outbox.verdicts import Verdict
from relay.errors import UnavailableError
from relay.kafka import progress
from relay.kafka.progress import Progress
from relay.kafka.topic_scan import committed_since, complete_since
from relay.process.maintenance import ShardMaintenance
from relay.settings import kafka_client_config
from relay.shard.recovery import ShardLook, insist_in_order
from relay.shard.worker import OwnedShard

CHUNK_ROWS = 500
SLACK_MS = 24 * 3600 * 1000
"""The topics are read from so long before the first row was received: records carry the relays' clocks."""


@dataclass
class Loss:
    """What one shard may have lost."""

    look: ShardLook
    above: int
    """Transactions up to this one are in Kafka; 0: that is not known, or not relied upon."""
    sent: int = 0
    """Rows marked sent by later ones."""
    missing: list[RowRef] = field(default_factory=list)
    """Of those, the ones that the topics lack, in id order."""
    undecided: int = 0
    """Of those, the ones that retention may have removed from a topic since, or whose topic was not read: they stay."""


def bound_of(look: ShardLook, read_back: Callable[[int, int], progress.StoredProgress | None]) -> int:
    """The last transaction that Kafka has kept, as far as its progress records tell.

    What was committed after Kafka went back, and the record of a reconcile that was interrupted, are numbered as the
    settled transaction or higher.

    Args:
        look: at the shard.
        read_back: of a shard, the last record whose sequence is below a number.
    """
    kept = read_back(look.shard, look.row.acknowledged_sequence)
    return kept.ref.sequence if kept else 0


def find(engine: Engine, held: ShardMaintenance, losses: Sequence[Loss], reading: Callable[[int], None]) -> None:
    """Read the topics, and note in each loss which of its rows they lack.

    Args:
        engine: of the outbox.
        held: the services.
        losses: of the shards.
        reading: told now and then how many records were read.

    Raises:
        UnavailableError: the topics cannot be read to their end.
    """
    left = {loss.look.shard: {row.id: row for row in _sent(engine, loss)} for loss in losses}
    received = [row.received_at_ms for rows in left.values() for row in rows.values()]
    kept_ms, topics = 0, tuple[str, ...]()
    if received:
        services, records = held.services, 0
        config, topics = kafka_client_config(services.settings), services.settings.kafka_topics
        since = min(received) - SLACK_MS
        kept_ms = max(complete_since(services.admin, topic, since) for topic in topics)
        for page in chain.from_iterable(committed_since(config, services.admin, topic, since) for topic in topics):
            for known in reconcile.match_records(engine, page):
                left.get(known.shard, {}).pop(known.id, None)
            records += len(page)
            reading(records)
    for loss in losses:
        decide(loss, left[loss.look.shard], kept_ms, topics)


def _sent(engine: Engine, loss: Loss) -> list[SentRow]:
    rows = list(reconcile.sent_above(engine, loss.look.shard, loss.above))
    loss.sent = len(rows)
    return rows


def decide(loss: Loss, left: Mapping[int, SentRow], kept_ms: int, topics: Collection[str]) -> None:
    """Note which of the rows that were not found are lost.

    Args:
        loss: of a shard.
        left: its rows that were not found.
        kept_ms: since when no topic has removed any record.
        topics: those that were read; a replay may have gone to one that is not in the settings any more.
    """
    read = {None, *topics}
    loss.missing = [row.ref for row in left.values() if row.received_at_ms >= kept_ms and row.topic in read]
    loss.undecided = len(left) - len(loss.missing)


def repair(engine: Engine, held: ShardMaintenance, loss: Loss, context: AuditContext, verb: str) -> None:
    """Take the shard, make its lost rows pending, and end with a progress record of the settled sequence.

    It may be interrupted anywhere and made again: the record is committed when no row is left to change, and until it
    is settled the shard waits as before, or finds everything done.

    Args:
        engine: of the outbox.
        held: the services.
        loss: of the shard.
        order: who, and why.
        verb: for the record.

    Raises:
        RelayError, OutboxError: also when the shard was sent since the loss was looked for.
    """
    shard = loss.look.shard
    _, each = held.take(shard, sends=True)
    found = held.shard_services.read_back(shard)
    if found != loss.look.found:  # fenced: from here on it cannot change
        raise UnavailableError(f"shard {shard} was sent meanwhile, and is left as it is: run this again")
    ref, refs = (found.ref, found.progress.refs) if found else (None, ())
    done = held.shard_services.store.settle_record(each.lease, ref, refs, inference=held.shard_services.inference)
    if done.verdict is Verdict.DATABASE_WENT_BACK:
        insist_in_order(done, ref)
    for start in range(0, len(loss.missing), CHUNK_ROWS):
        reconcile.send_again(engine, each.lease, loss.missing[start : start + CHUNK_ROWS], context)
        held.renew()
    held.shard_services.step("sent_again", shard)
    record = _write(held, each, max(done.shard.acknowledged_sequence, ref.sequence if ref else 0))
    held.shard_services.step("recorded", shard)
    reconcile.advance_sequence(engine, each.lease, record, verb, context)


def _write(held: ShardMaintenance, each: OwnedShard, sequence: int) -> RecordRef:
    lease = each.lease
    value = progress.encode(Progress(held.shard_services.outbox_id, lease.shard, lease.epoch, sequence, []))
    return progress.ref_of(sequence, each.publisher.publish([], value), value)
