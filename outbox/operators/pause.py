"""Pausing shards: no relay sends a paused shard until it is resumed or the pause expires."""

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.operators import audit
from outbox.operators.audit import AuditContext
from outbox.sql import shards as sql


def pause_shards(engine: Engine, shard: int | None, for_seconds: float | None, context: AuditContext) -> list[int]:
    """Pause a shard, or every shard; relays release it after the current batch.

    Args:
        shard: number of the shard; None: every shard.
        for_seconds: after this time the pause ends by itself; None: it does not.
        context: for the audit.

    Returns:
        The shards that are now paused by this call, which replaces an earlier pause.
    """
    for_ms = None if for_seconds is None else round(for_seconds * 1000)
    values = {"shard": shard, "for_ms": for_ms, "actor": context.actor, "reason": context.reason}
    duration = "" if for_seconds is None else f" for {for_seconds:.0f} s"
    with transactions.write(engine) as connection:
        paused = sorted(connection.execute(sql.PAUSE.on(connection), values).scalars())
        if paused:
            audit.add(connection, f"pause {_format_shard(shard)}{duration}", context, [])
    return paused


def resume_shards(engine: Engine, shard: int | None, context: AuditContext) -> list[int]:
    """End the pause of a shard, or of every shard.

    Returns:
        The shards that were paused.
    """
    with transactions.write(engine) as connection:
        resumed = sorted(connection.execute(sql.RESUME.on(connection), {"shard": shard}).scalars())
        if resumed:
            audit.add(connection, f"resume {_format_shard(shard)}", context, [])
    return resumed


def _format_shard(shard: int | None) -> str:
    return "every shard" if shard is None else f"shard {shard}"
