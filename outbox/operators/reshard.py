"""Another number of shards: rows not yet sent move to the shard that their interaction has from now on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.errors import OutboxMismatchError
from outbox.models import AuditContext, Lease, shard_of
from outbox.operators import audit
from outbox.sql import flow
from outbox.sql import shards as sql
from outbox.store import _lock

PAGE_ROWS = 5_000


class ReshardPlan(NamedTuple):
    """What another number of shards would do."""

    old: int
    new: int
    unsent: int
    """Rows not sent: pending, parked and discarded ones."""
    moving: int
    """Of those, the ones whose shard changes."""


def plan_reshard(engine: Engine, old: int, new: int) -> ReshardPlan:
    """Count the rows that would move."""
    unsent = moving = 0
    with transactions.read(engine) as connection:
        for shard, page in _unsent(connection, old):
            unsent += len(page)
            moving += len(_moving(page, shard, new))
    return ReshardPlan(old, new, unsent, moving)


def reshard_rows(
    engine: Engine, leases: Sequence[Lease], settled: Mapping[int, int], shards: int, context: AuditContext
) -> int:
    """Change the number of shards in one transaction, during which nothing is inserted.

    Args:
        engine: of the outbox.
        leases: of every old shard, each fenced and settled under it.
        settled: sequence of the last Kafka transaction of each new shard, if it was used before.
        shards: the new number.
        order: who, and why.

    Returns:
        Number of rows moved.

    Raises:
        LeaseLostError: a lease is not ours any more; nothing has changed.
        OutboxMismatchError: these are not all the shards there are; nothing has changed.
    """
    old, moved = len(leases), 0
    with transactions.write(engine) as connection:
        connection.execute(sql.TAKE_TIME.on(connection))
        for lease in sorted(leases):  # shards before the table, as everybody who needs both
            _lock(connection, lease)
        connection.execute(sql.LOCK_OUTBOX.on(connection))
        there = connection.execute(flow.IDENTITY.on(connection)).one().shards
        if there != old:  # rows of a shard that nobody looked after would be stranded
            raise OutboxMismatchError(f"the outbox has {there} shards meanwhile, not {old}: plan the reshard anew")
        connection.execute(sql.SET_SHARDS.on(connection), {"shards": shards})
        for shard in range(old, shards):
            values = {"shard": shard, "sequence": settled.get(shard, 0)}
            connection.execute(sql.ADD_SHARD.on(connection), values)
        connection.execute(sql.EXTEND_PAUSE.on(connection), {"old": old})
        for shard, page in _unsent(connection, old):
            moving = _moving(page, shard, shards)
            moved += len(moving)
            _move(connection, moving)
        connection.execute(sql.DROP_PAUSES.on(connection), {"shards": shards})
        connection.execute(sql.DROP_SHARDS.on(connection), {"shards": shards})
        audit.add(connection, f"reshard {old} to {shards}", context, [])
    return moved


def _unsent(connection: Connection, shards: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Rows not sent, as id and interaction, a page of one shard at a time; those moved on may come again."""
    for shard in range(shards):
        for query in sql.UNSENT:
            after = -(2**63)
            while True:
                values = {"shard": shard, "after": after, "limit": PAGE_ROWS}
                page = [(row.id, row.interaction_id) for row in connection.execute(query.on(connection), values)]
                if page:
                    yield shard, page
                if len(page) < PAGE_ROWS:
                    break
                after = page[-1][0]


def _moving(page: Sequence[tuple[int, str]], shard: int, shards: int) -> list[tuple[int, int]]:
    found = [(row_id, shard_of(interaction, shards)) for row_id, interaction in page]
    return [(row_id, to) for row_id, to in found if to != shard]


def _move(connection: Connection, moving: Sequence[tuple[int, int]]) -> None:
    if not moving:
        return
    if connection.dialect.name == "postgresql":
        ids, shards = zip(*moving, strict=True)
        connection.execute(sql.MOVE.on(connection), {"ids": list(ids), "shards": list(shards)})
    else:
        connection.execute(sql.MOVE.on(connection), {"rows": json.dumps(moving)})
