"""Changing the number of shards: each row that is not sent moves to the new shard of its interaction."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.errors import OutboxMismatchError
from outbox.models import Lease, shard_of
from outbox.operators import audit
from outbox.operators.audit import AuditContext
from outbox.progress import lock_shard
from outbox.sql import flow
from outbox.sql import reshard as sql
from outbox.sql.statement import Statement, bind_rows

PAGE_ROWS = 5_000


class ReshardPlan(NamedTuple):
    """The effect of another number of shards."""

    old: int
    new: int
    unsent: int
    """Rows that are not sent: pending, parked and discarded ones."""
    moving: int
    """Of these, the rows whose shard changes."""


class _Move(NamedTuple):
    """A row and its new shard."""

    id: int
    shard: int


def plan_reshard(engine: Engine, old: int, new: int) -> ReshardPlan:
    """Count the rows that would move."""
    unsent = moving = 0
    with transactions.read(engine) as connection:
        for shard, page in _unsent(connection, old):
            unsent += len(page)
            moving += len(_moves(page, shard, new))
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
    old, moved = len(leases), 0
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
        for shard, page in _unsent(connection, old):
            moved += _move(connection, _moves(page, shard, shards))
        connection.execute(sql.DROP_PAUSES.on(connection), {"shards": shards})
        connection.execute(sql.DROP_SHARDS.on(connection), {"shards": shards})
        audit.add(connection, f"reshard {old} to {shards}", context, [])
    return moved


def _unsent(connection: Connection, shards: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Yield rows that are not sent, as ids and interactions, a page of one shard at a time.

    A row that is moved to a later shard meanwhile is yielded again.
    """
    for shard in range(shards):
        for query in sql.UNSENT:
            for page in _pages(connection, query, shard):
                yield shard, page


def _pages(connection: Connection, query: Statement, shard: int) -> Iterator[list[tuple[int, str]]]:
    after, more = -(2**63), True
    while more:
        values = {"shard": shard, "after": after, "limit": PAGE_ROWS}
        page = [(row.id, row.interaction_id) for row in connection.execute(query.on(connection), values)]
        if page:
            yield page
            after = page[-1][0]
        more = len(page) == PAGE_ROWS


def _moves(page: Sequence[tuple[int, str]], shard: int, shards: int) -> list[_Move]:
    moves = (_Move(row_id, shard_of(interaction, shards)) for row_id, interaction in page)
    return [move for move in moves if move.shard != shard]


def _move(connection: Connection, moves: Sequence[_Move]) -> int:
    if moves:
        connection.execute(sql.MOVE.on(connection), bind_rows(connection, _Move._fields, moves))
    return len(moves)
