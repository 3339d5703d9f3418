"""What a shard's last progress record says beside the shard's row: whether database or Kafka went back in time."""

from enum import StrEnum
from typing import NamedTuple

from outbox.models import RecordRef

KAFKA_WENT_BACK = "Kafka went back in time"
"""How the condition of a shard begins that waits for an operator because of it; its rows are not pruned meanwhile."""


class Verdict(StrEnum):
    """How the record and the shard's row fit together."""

    NOTHING_SENT = "nothing_sent_yet"
    """There is no record, and nothing was settled."""
    PROGRESS_LOST = "progress_lost"
    """There is no record, although something was settled: the progress topic was lost or replaced."""
    IN_ORDER = "in_order"
    """The record is the settled one, or the next."""
    DATABASE_WENT_BACK = "database_went_back"
    """The record is more than one ahead: the database was restored, or failed over to a stale replica."""
    KAFKA_WENT_BACK = "kafka_went_back"
    """What was settled is not in Kafka any more: a broker was restored from an older copy, or lost its newest data."""


class ShardRecord(NamedTuple):
    """What a shard's row says of its progress."""

    acknowledged_sequence: int
    """Sequence of the last Kafka transaction whose rows are marked; 0: none."""
    record: RecordRef | None
    """The progress record of that transaction; None: it is not known which one it was."""


def judge(shard: ShardRecord, found: RecordRef | None) -> Verdict:
    """Compare a shard's row with a progress record: the last one in Kafka, or one just committed.

    Args:
        shard: the row.
        found: the record; None: there is none.
    """
    settled, known = shard
    if found is None:
        return Verdict.PROGRESS_LOST if settled else Verdict.NOTHING_SENT
    if found.sequence > settled + 1:
        return Verdict.DATABASE_WENT_BACK
    if found.sequence < settled:
        return Verdict.KAFKA_WENT_BACK
    if known is None:
        return Verdict.IN_ORDER
    same = found == known if found.sequence == settled else found.offset > known.offset
    return Verdict.IN_ORDER if same else Verdict.KAFKA_WENT_BACK
