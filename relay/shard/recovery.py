"""What a shard's last progress record means: inspected, logged, and raised where an operator has to act first."""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from outbox.models import Lease, RecordRef
from outbox.progress import KAFKA_WENT_BACK_PREFIX, Acknowledgement, ProgressVerdict, ShardProgress, judge_progress
from outbox.store import Store
from relay.errors import DatabaseWentBackError, KafkaWentBackError
from relay.kafka.progress import StoredProgress

log = structlog.get_logger(__name__)

INSPECTION_ATTEMPTS = 3
"""How often a shard is inspected that sends rows meanwhile."""


class ShardInspection(NamedTuple):
    """A shard's row and its last progress record, as read without owning the shard."""

    shard: int
    row: ShardProgress
    found: StoredProgress | None
    verdict: ProgressVerdict


def inspect_shard(store: Store, read_back: Callable[[int], StoredProgress | None], shard: int) -> ShardInspection:
    """Compare a shard's row with its last progress record. A shard that sends rows meanwhile is in order.

    Args:
        read_back: reads the last progress record of a shard.
        shard: its number, from 0.
    """
    for _ in range(INSPECTION_ATTEMPTS):
        row, found = store.read_progress(shard), read_back(shard)
        if store.read_progress(shard) == row:
            return ShardInspection(shard, row, found, judge_progress(row, found.ref if found else None))
    return ShardInspection(shard, row, found, ProgressVerdict.IN_ORDER)


def recovery_label(outcome: Acknowledgement) -> str:
    """The label of ``outbox_recoveries_total``."""
    if outcome.verdict is ProgressVerdict.IN_ORDER:
        return "marked" if outcome.marked else "nothing_to_mark"
    return str(outcome.verdict)


def report(subject: str, lease: Lease, outcome: Acknowledgement, record: StoredProgress | None) -> None:
    """Log what the progress record showed. A service that went back in time is raised, not logged.

    Args:
        subject: the shard, as the log names it.
        lease: as it was taken.
        outcome: of acknowledging the record.
        record: the last progress record.
    """
    fields = {
        "shard": lease.shard, "epoch": lease.epoch, "verdict": recovery_label(outcome), "marked": outcome.marked,
    }  # fmt: skip
    if outcome.verdict is ProgressVerdict.PROGRESS_LOST:
        log.error(
            "%s has no progress record although it has sent transactions: the progress topic was lost or replaced. "
            "Rows that were committed but not yet marked are sent twice. If the topic of the rows lost records as "
            "well, run relay reconcile --shard %d",
            subject, lease.shard, action="progress_lost", **fields,
        )  # fmt: skip
    elif outcome.verdict in {ProgressVerdict.DATABASE_WENT_BACK, ProgressVerdict.KAFKA_WENT_BACK}:
        return
    elif record and _is_new(record, lease) and outcome.marked < len(record.progress.refs):
        log.warning(
            "%s taken; of %d rows in the last transaction, %d were marked: the others are marked already, or a "
            "restored database gave their ids to other rows",
            subject, len(record.progress.refs), outcome.marked, action="taken", **fields,
        )  # fmt: skip
    else:
        log.info("%s taken", subject, action="taken", **fields)


def _is_new(record: StoredProgress, lease: Lease) -> bool:
    """Whether the record is of a transaction that the database had not acknowledged."""
    return record.ref.sequence == lease.acknowledged_sequence + 1


def ensure_in_order(outcome: Acknowledgement, record: RecordRef | None) -> None:
    """Raise if the database or Kafka went back in time.

    Args:
        outcome: of acknowledging the record.
        record: the shard's last one.

    Raises:
        DatabaseWentBackError, KafkaWentBackError: with the commands that resolve it.
    """
    if record and outcome.verdict is ProgressVerdict.DATABASE_WENT_BACK:
        raise DatabaseWentBackError(
            f"Kafka has transaction {record.sequence} of this shard, the database only "
            f"{outcome.shard.acknowledged_sequence}: it was restored, or failed over to a stale replica. Nothing is "
            "sent until an operator runs relay reconcile --since TIME (a time before the restored one; marks the rows "
            "that the topic has), or relay reconcile --accept-duplicates (sends them again)"
        )
    if record and outcome.verdict is ProgressVerdict.KAFKA_WENT_BACK:
        known = outcome.shard.record
        acknowledged = f"transaction {outcome.shard.acknowledged_sequence}" + (
            f" at offset {known.offset}" if known else ""
        )
        raise KafkaWentBackError(
            f"{KAFKA_WENT_BACK_PREFIX}: the database has acknowledged {acknowledged} of this shard, but the last "
            f"progress record in Kafka is of transaction {record.sequence} at offset {record.offset}. A broker came "
            "back with an older copy of its disk, or lost its newest data (unclean leader election). Nothing is sent "
            "until an operator runs relay reconcile (sends the rows again that the topic lacks, after later rows of "
            "their interactions that it kept), or relay reconcile --accept-loss (does not)"
        )
