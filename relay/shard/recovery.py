"""What the taking of a shard found: said in the log, and raised where nothing may be sent before an operator acts."""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from outbox.models import Lease, RecordRef
from outbox.store import Settlement, Store
from outbox.verdicts import KAFKA_WENT_BACK, ShardRecord, Verdict, judge
from relay.errors import DatabaseWentBackError, KafkaWentBackError
from relay.kafka.progress import StoredProgress

log = structlog.get_logger(__name__)

INSPECTION_ATTEMPTS = 3
"""How often a shard is looked at that is sent meanwhile."""


class ShardInspection(NamedTuple):
    """A shard's row and its last progress record, seen by somebody who does not hold the shard."""

    shard: int
    row: ShardRecord
    found: StoredProgress | None
    verdict: Verdict


def inspect_shard(store: Store, read_back: Callable[[int], StoredProgress | None], shard: int) -> ShardInspection:
    """Compare a shard's row with its last progress record. One that is sent meanwhile is in order.

    Args:
        store: the outbox.
        read_back: reads the shard's last progress record.
        shard: its number.
    """
    for _ in range(INSPECTION_ATTEMPTS):
        row, found = store.progress_of(shard), read_back(shard)
        if store.progress_of(shard) == row:
            return ShardInspection(shard, row, found, judge(row, found.ref if found else None))
    return ShardInspection(shard, row, found, Verdict.IN_ORDER)


def recovery_label(done: Settlement) -> str:
    """The label of ``outbox_recoveries_total``."""
    if done.verdict is Verdict.IN_ORDER:
        return "marked" if done.marked else "nothing_to_mark"
    return str(done.verdict)


def report(subject: str, lease: Lease, done: Settlement, record: StoredProgress | None) -> None:
    """Log what was found, and what follows from it."""
    told = {"shard": lease.shard, "epoch": lease.epoch, "verdict": recovery_label(done), "marked": done.marked}
    if done.verdict is Verdict.PROGRESS_LOST:
        log.error(
            "%s has no progress record although transactions were settled: the progress topic was lost or "
            "replaced. Rows committed but not yet marked are sent twice. If the topic of the rows lost records, too, "
            "relay reconcile --shard %d finds their rows",
            subject, lease.shard, action="progress_lost", **told,
        )  # fmt: skip
    elif done.verdict in {Verdict.DATABASE_WENT_BACK, Verdict.KAFKA_WENT_BACK}:
        return  # raised, and said once
    elif record and done.marked < len(record.progress.refs) and record.ref.sequence == lease.acknowledged_sequence + 1:
        log.warning(
            "%s: of %d rows in the last transaction %d could be marked; the others are sent already, or other "
            "rows have their ids (a restored database)",
            subject, len(record.progress.refs), done.marked, action="taken", **told,
        )  # fmt: skip
    else:
        log.info("%s taken", subject, action="taken", **told)


def ensure_in_order(done: Settlement, record: RecordRef | None) -> None:
    """Raise if database or Kafka went back in time.

    Args:
        done: what was made of the record.
        record: the shard's last one.

    Raises:
        DatabaseWentBackError, KafkaWentBackError: with the cures.
    """
    if record and done.verdict is Verdict.DATABASE_WENT_BACK:
        raise DatabaseWentBackError(
            f"Kafka holds transaction {record.sequence} of this shard, the database knows of "
            f"{done.shard.acknowledged_sequence} only: it was restored or failed over to a "
            "stale replica. Nothing is sent until an operator runs "
            "relay reconcile --since TIME (a moment before the restored one: rows that are in the topic are "
            "marked sent), or relay reconcile --accept-duplicates (they are sent again)"
        )
    if record and done.verdict is Verdict.KAFKA_WENT_BACK:
        known = done.shard.record
        settled = f"transaction {done.shard.acknowledged_sequence}" + (f" at offset {known.offset}" if known else "")
        raise KafkaWentBackError(
            f"{KAFKA_WENT_BACK}: the database has settled {settled} of this shard, the last progress record "
            f"in Kafka is of transaction {record.sequence} at offset {record.offset}. A broker came back with an "
            "older copy of its disk, or lost its newest data (unclean leader election). Nothing is sent until an "
            "operator runs relay reconcile (rows marked sent that the topic lacks are sent again; they come after "
            "later rows of their interactions that the topic kept), or relay reconcile --accept-loss (they are not)"
        )
