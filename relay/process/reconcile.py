"""Reconcile shards with Kafka after the database or Kafka went back in time: plan, then change shard by shard."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic
from typing import TypeVar

from sqlalchemy import Engine

from outbox.errors import OutboxError
from outbox.models import RowRef
from outbox.operators.audit import AuditContext
from outbox.operators.reconcile import KnownRow, TopicRecord, advance_sequence, mark_published, match_records
from outbox.progress import ProgressVerdict
from outbox.states import RowState
from outbox.store import Store
from relay.errors import RelayError, UnavailableError
from relay.kafka.progress import StoredProgress
from relay.kafka.topic_scan import OPEN_TRANSACTION_TIMEOUT_SECONDS, committed_since, truncated_partitions
from relay.process.lost_rows import ShardLoss, last_kept_sequence
from relay.process.maintenance import ShardMaintenance
from relay.settings import kafka_client_config
from relay.shard.recovery import ShardInspection, inspect_shard

CHUNK_ROWS = 500
SAMPLE_RECORDS = 5
T = TypeVar("T")


# The database went back ----------------------------------------------------------------------------


@dataclass
class DatabaseReconcilePlan:
    """What the topic says about shards whose database went back in time."""

    sequences: dict[int, int]
    """By shard, its last Kafka transaction when the plan was made; empty: no shard needs it."""
    records: int = 0
    """How many were read."""
    published: dict[int, set[RowRef]] = field(default_factory=lambda: defaultdict(set))
    """By shard, rows that are in the topic but not marked sent."""
    unknown: int = 0
    """Records whose rows are not in the database."""
    samples: list[TopicRecord] = field(default_factory=list)
    """Some of those."""
    truncated: dict[str, list[int]] = field(default_factory=dict)
    """By topic, partitions from which relevant records were removed."""
    kafka_went_back: list[int] = field(default_factory=list)
    """Shards for which Kafka went back instead; if there are any, nothing is planned."""

    def add(self, records: Sequence[TopicRecord], known: Sequence[KnownRow]) -> None:
        """Add records of the topic, and the rows that they belong to."""
        self.records += len(records)
        missing = sorted(set(records) - {row.record for row in known})
        self.unknown += len(missing)
        self.samples += missing[: SAMPLE_RECORDS - len(self.samples)]
        for row in known:
            if row.state != RowState.SENT and row.shard in self.sequences:
                self.published[row.shard].add(row.ref)


def plan_database_reconcile(
    engine: Engine,
    maintenance: ShardMaintenance,
    selected: Sequence[int],
    since_ms: int | None,
    report_progress: Callable[[int], None],
) -> DatabaseReconcilePlan:
    """Plan to mark rows sent that the topic holds.

    Args:
        engine: the outbox.
        maintenance: the shards.
        selected: shards; empty: those whose database went back.
        since_ms: when to start reading the topics; None: do not read them.
        report_progress: called with the number of records read so far.
    """
    # The progress records come first: the topic then holds every record that they count.
    inspections = {shard: _inspect(maintenance, Store(engine), shard) for shard in _all_shards(maintenance)}
    shards = selected or [
        shard for shard, each in inspections.items() if each.verdict is ProgressVerdict.DATABASE_WENT_BACK
    ]
    if kafka := [shard for shard in shards if inspections[shard].verdict is ProgressVerdict.KAFKA_WENT_BACK]:
        return DatabaseReconcilePlan({}, kafka_went_back=kafka)
    plan = DatabaseReconcilePlan({shard: _sequence(inspections[shard].found) for shard in shards})
    if since_ms is not None and plan.sequences:
        _read_topics(engine, maintenance, plan, since_ms, report_progress)
    return plan


def _read_topics(
    engine: Engine,
    maintenance: ShardMaintenance,
    plan: DatabaseReconcilePlan,
    since_ms: int,
    report_progress: Callable[[int], None],
) -> None:
    config, topics = kafka_client_config(maintenance.settings), maintenance.settings.kafka_topics
    truncated = {topic: truncated_partitions(maintenance.admin, topic, since_ms) for topic in topics}
    plan.truncated = {topic: partitions for topic, partitions in truncated.items() if partitions}
    pages = (committed_since(config, maintenance.admin, topic, since_ms) for topic in topics)
    for page in chain.from_iterable(pages):
        plan.add(page, match_records(engine, page))
        report_progress(plan.records)


def reconcile_database(
    engine: Engine,
    maintenance: ShardMaintenance,
    plan: DatabaseReconcilePlan,
    shard: int,
    context: AuditContext,
    verb: str,
) -> None:
    """Take the shard, mark its published rows sent, and let it send again.

    Args:
        engine: the outbox.
        maintenance: the shards.
        plan: for this and other shards.
        shard: its number.
        context: who, and why.
        verb: for the audit log.

    Raises:
        RelayError, OutboxError: also if the shard was sent since the plan was made.
    """
    owned = maintenance.take(shard)
    record = _read_closed(lambda: maintenance.read_back(shard))
    if _sequence(record) != plan.sequences[shard]:  # the producer is fenced, so from here on it cannot change
        raise UnavailableError(f"shard {shard} was sent since the plan and is left unchanged: run the command again")
    refs = sorted(plan.published[shard])
    for start in range(0, len(refs), CHUNK_ROWS):
        chunk, inference = refs[start : start + CHUNK_ROWS], maintenance.services.inference
        mark_published(engine, owned.lease, plan.sequences[shard], chunk, context, inference=inference)
        maintenance.renew()
    advance_sequence(engine, owned.lease, record.ref if record else None, verb, context)


# Kafka went back -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class KafkaReconcilePlan:
    """Shards for which Kafka went back in time."""

    losses: list[ShardLoss]
    """What each may have lost; ``lost_rows.find_lost_rows`` completes it."""
    database_went_back: list[int]
    """Shards for which the database went back instead."""

    def is_complete(self, done: Sequence[int], selected: Sequence[int]) -> bool:
        """Whether every selected shard is reconciled and no row is undecided.

        Args:
            done: shards that are reconciled.
            selected: shards that were asked for.
        """
        undecided = any(loss.undecided for loss in self.losses)
        skipped = set(self.database_went_back) & set(selected)
        return len(done) == len(self.losses) and not undecided and not skipped


def plan_kafka_reconcile(engine: Engine, maintenance: ShardMaintenance, selected: Sequence[int]) -> KafkaReconcilePlan:
    """Find the shards whose rows Kafka may have lost.

    Args:
        engine: the outbox.
        maintenance: the shards.
        selected: shards of which every row is checked, because the topic may have lost more than the progress
            topic shows; empty: those for which Kafka went back.
    """
    inspections = [_inspect(maintenance, Store(engine), shard) for shard in selected or _all_shards(maintenance)]
    database = [each.shard for each in inspections if each.verdict is ProgressVerdict.DATABASE_WENT_BACK]
    affected = [
        each
        for each in inspections
        if each.verdict is ProgressVerdict.KAFKA_WENT_BACK or (selected and each.shard not in database)
    ]
    losses = [ShardLoss(each, 0 if selected else last_kept_sequence(each, maintenance.read_back)) for each in affected]
    return KafkaReconcilePlan(losses, database)


# Shared --------------------------------------------------------------------------------------------


def for_each_shard(
    maintenance: ShardMaintenance,
    shards: Iterable[int],
    action: Callable[[int], None],
    report_error: Callable[[Exception], None],
) -> list[int]:
    """Run an action for each shard and return those for which it succeeded.

    Each shard is given back at once, so that a relay can send it while the others are reconciled.
    """
    done = []
    for shard in shards:
        try:
            action(shard)
            done.append(shard)
        except (RelayError, OutboxError) as error:
            report_error(error)
        finally:
            maintenance.give_back(shard)
    return done


def unknown_shards(maintenance: ShardMaintenance, selected: Sequence[int]) -> list[int]:
    """Return the shards that the outbox does not have."""
    return sorted(set(selected) - set(_all_shards(maintenance)))


def _all_shards(maintenance: ShardMaintenance) -> list[int]:
    return list(maintenance.services.leases.owners())


def _inspect(maintenance: ShardMaintenance, store: Store, shard: int) -> ShardInspection:
    return _read_closed(lambda: inspect_shard(store, maintenance.read_back, shard))


def _read_closed(read: Callable[[], T]) -> T:
    """Retry until the open transaction of a dead producer, which may not be fenced yet, has timed out."""
    deadline = monotonic() + OPEN_TRANSACTION_TIMEOUT_SECONDS
    while True:
        try:
            return read()
        except UnavailableError:
            if monotonic() > deadline:
                raise


def _sequence(record: StoredProgress | None) -> int:
    return record.ref.sequence if record else 0
