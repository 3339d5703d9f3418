"""Change the number of shards while no relay sends."""

from collections.abc import Sequence

from sqlalchemy import Engine

from outbox.models import ShardStatus
from outbox.operators.audit import AuditContext
from outbox.operators.reshard import reshard_rows
from relay.kafka.progress_topic import grow_progress_topic
from relay.process.maintenance import ShardMaintenance


def sending_shards(status: Sequence[ShardStatus]) -> list[ShardStatus]:
    """Return the shards that prevent a reshard: a live relay owns them, and they are not paused."""
    return [shard for shard in status if shard.owner and shard.lease_remaining_ms > 0 and shard.paused_by is None]


def reshard_outbox(engine: Engine, maintenance: ShardMaintenance, old: int, new: int, context: AuditContext) -> int:
    """Take every shard, finish its last transaction, and move the unsent rows.

    A transaction that is open or not yet marked would be sent again under the new shards.

    Args:
        engine: the outbox.
        maintenance: the shards.
        old: number of shards now.
        new: number of shards wanted.
        context: who, and why.

    Returns:
        Number of rows moved.
    """
    for shard in range(old):
        maintenance.take(shard)
        maintenance.recover(shard)
        maintenance.renew()
    acknowledged = _acknowledged(maintenance, old, new) if new > old else {}
    return reshard_rows(engine, maintenance.leases, acknowledged, new, context)


def _acknowledged(maintenance: ShardMaintenance, old: int, new: int) -> dict[int, int]:
    """Return the last sequence of each new shard, which may have been a shard before."""
    partitions = grow_progress_topic(maintenance.admin, maintenance.settings, new)
    sequences = {}
    for shard in range(old, min(new, partitions)):
        record = maintenance.read_back(shard)
        sequences[shard] = record.ref.sequence if record else 0
        maintenance.renew()
    return sequences
