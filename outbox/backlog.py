"""What waits in the outbox, counted at a cost that follows neither history nor the size of the backlog."""

from typing import NamedTuple

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.sql.flow import statement

COUNTED_AT_MOST = 1_000_000
"""Rows, or calls, of a state that are counted; a larger backlog shows as this many."""

WALK_INDEXES = statement(
    postgresql="SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)",
    sqlite="SELECT 1",
)
"""For the rest of the transaction PostgreSQL walks the partial indexes, whatever its statistics say of the states."""
BACKLOG = statement("""
    SELECT
        (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE state = 'pending' LIMIT :limit) AS p) AS pending,
        (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE state = 'parked' LIMIT :limit) AS p) AS parked,
        (SELECT max({now} - (SELECT o.received_at FROM outbox AS o
                             WHERE o.shard BETWEEN s.shard AND s.shard AND o.state = 'pending'
                             ORDER BY o.shard, o.id LIMIT 1))
         FROM outbox_shard AS s) AS oldest_age_ms,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_inference_call WHERE state = 'due' LIMIT :limit) AS c) AS calls_due,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_inference_call WHERE state = 'parked' LIMIT :limit) AS c)
            AS calls_parked
""")
"""Each count walks a partial index, up to the limit; the oldest row is the first entry of each shard.
A range of one shard rather than an equality, or PostgreSQL may walk the primary key, through all of history, to the
first pending row."""
_SHARDS = statement("""
    SELECT count(*) AS shards,
           coalesce(sum(CASE WHEN p.shard IS NOT NULL THEN 1 ELSE 0 END), 0) AS paused,
           coalesce(sum(CASE WHEN p.shard IS NULL AND s.owner IS NOT NULL AND s.lease_expires_at > {now}
                             THEN 1 ELSE 0 END), 0) AS owned
    FROM outbox_shard AS s LEFT JOIN outbox_pause AS p ON p.shard = s.shard AND (p.until IS NULL OR p.until > {now})
""")


class Backlog(NamedTuple):
    """What waits, and who attends to it.

    Attributes:
        pending: rows not sent and not parked.
        parked: rows that wait for an operator.
        oldest_age_ms: since its receipt, of the oldest pending row; 0 without one.
        calls_due: inference calls to be made.
        calls_parked: inference calls that wait for an operator.
        owned: shards that a relay sends.
        unowned: shards that no relay sends, although none has paused them.
        paused: shards that an operator has paused.
    """

    pending: int
    parked: int
    oldest_age_ms: int
    calls_due: int
    calls_parked: int
    owned: int
    unowned: int
    paused: int


def count_backlog(engine: Engine) -> Backlog:
    """Count what waits, each kind up to ``COUNTED_AT_MOST``.

    Raises:
        DatabaseUnavailableError, SchemaOutdatedError
    """
    with transactions.read(engine) as connection:
        connection.execute(WALK_INDEXES.on(connection))
        rows = connection.execute(BACKLOG.on(connection), {"limit": COUNTED_AT_MOST}).one()
        shards = connection.execute(_SHARDS.on(connection)).one()
    return Backlog(
        pending=rows.pending,
        parked=rows.parked,
        oldest_age_ms=max(0, rows.oldest_age_ms or 0),
        calls_due=rows.calls_due,
        calls_parked=rows.calls_parked,
        owned=shards.owned,
        unowned=shards.shards - shards.owned - shards.paused,
        paused=shards.paused,
    )
