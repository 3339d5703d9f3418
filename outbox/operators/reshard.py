"""Changing the number of shards: each row that is not sent moves to the new shard of its interaction."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.errors import OutboxMismatchError
from outbox.models import Lease
from outbox.operators import audit
from outbox.operators.audit import AuditContext
from outbox.progress import lock_shard
from outbox.sql import flow
from outbox.sql import reshard as sql


class ReshardPlan(NamedTuple):
    """The effect of another number of shards."""

    old: int
    new: int
    unsent: int
    """Rows that are not sent: pending, parked and discarded ones."""
    moving: int
    """Of these, the rows whose shard changes."""


def plan_reshard(engine: Engine, old: int, new: int) -> ReshardPlan:
    """Count the rows that would move."""
    with transactions.read(engine) as connection:
        connection.execute(sql.RAISE_TIMEOUTS.on(connection))
        unsent, moving = connection.execute(sql.COUNT_MOVING.on(connection), {"shards": new}).one()
    return ReshardPlan(old, new, unsent, moving)


def reshard_rows(
    engine: Engine, leases: Sequence[Lease], acknowledged: Mapping[int, int], shards: int, context: AuditContext
) -> int:
    """Change the number of shards in one transaction, during which no row is inserted.

    Args:
        leases: of every old shard, whose producers are fenced and whose progress records are acknowledged.
        acknowledged: the last sequence of each new shard that was used before.
        shards: the new number.
        context: for the audit.

    Returns:
        The number of rows moved.

    Raises:
        LeaseLostError: a lease was lost; nothing has changed.
        OutboxMismatchError: the leases are not of all shards; nothing has changed.
    """
    old = len(leases)
    with transactions.write(engine) as connection:
        connection.execute(sql.RAISE_TIMEOUTS.on(connection))
        for lease in sorted(leases):  # shards before the table, in the same order as everybody who needs both
            lock_shard(connection, lease)
        connection.execute(sql.LOCK_OUTBOX.on(connection))
        found = connection.execute(flow.IDENTITY.on(connection)).one().shards
        if found != old:  # rows of a shard without a lease would be stranded
            raise OutboxMismatchError(f"the outbox has {found} shards now, not {old}: plan the reshard again")
        connection.execute(sql.SET_SHARDS.on(connection), {"shards": shards})
        for shard in range(old, shards):
            values = {"shard": shard, "sequence": acknowledged.get(shard, 0)}
            connection.execute(sql.ADD_SHARD.on(connection), values)
        connection.execute(sql.EXTEND_PAUSE.on(connection), {"old": old})
        moved = sum(connection.execute(move.on(connection), {"shards": shards}).rowcount for move in sql.MOVES)
        connection.execute(sql.DROP_PAUSES.on(connection), {"shards": shards})
        connection.execute(sql.DROP_SHARDS.on(connection), {"shards": shards})
        audit.add(connection, f"reshard {old} to {shards}", context, [])
    return moved
