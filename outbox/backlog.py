"""Counting what waits in the outbox, at a cost that follows neither history nor the size of the backlog."""

from typing import NamedTuple

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.db.diagnostics import clock_offset_seconds
from outbox.sql import backlog as sql

MAX_COUNTED = 1_000_000
"""Rows, or calls, of one state that are counted; a larger backlog shows as this number."""


class Backlog(NamedTuple):
    """What waits, and who works on it."""

    pending: int
    """Rows to send."""
    parked: int
    """Rows that wait for an operator."""
    oldest_age_ms: int
    """Age of the oldest pending row since its receipt; 0 without one."""
    calls_due: int
    """Inference calls to make."""
    calls_parked: int
    """Inference calls that wait for an operator."""
    owned: int
    """Shards that a relay owns."""
    unowned: int
    """Shards that no relay owns, although they are not paused."""
    paused: int
    """Shards that an operator has paused."""
    clock_offset_seconds: float
    """How far this process's clock is ahead of the database's; negative: behind."""


def count_backlog(engine: Engine) -> Backlog:
    """Count what waits, each kind up to ``MAX_COUNTED``.

    Raises:
        DatabaseUnavailableError, SchemaOutdatedError
    """
    with transactions.read(engine) as connection:
        connection.execute(sql.PREFER_INDEX_SCANS.on(connection))
        rows = connection.execute(sql.BACKLOG.on(connection), {"limit": MAX_COUNTED}).one()
        shards = connection.execute(sql.SHARDS.on(connection)).one()
        offset = clock_offset_seconds(connection)
    return Backlog(
        pending=rows.pending,
        parked=rows.parked,
        oldest_age_ms=max(0, rows.oldest_age_ms or 0),
        calls_due=rows.calls_due,
        calls_parked=rows.calls_parked,
        owned=shards.owned,
        unowned=shards.shards - shards.owned - shards.paused,
        paused=shards.paused,
        clock_offset_seconds=offset,
    )
