"""Pausing shards: no relay sends a paused one, until it is resumed or the pause runs out by itself."""

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.models import AuditContext
from outbox.operators import audit
from outbox.sql import shards as sql


def pause_shards(engine: Engine, shard: int | None, for_seconds: float | None, context: AuditContext) -> list[int]:
    """Pause a shard, or every one; relays give it back after the batch in hand.

    Args:
        engine: of the outbox.
        shard: its number; None: every shard.
        for_seconds: after which the pause ends by itself; None: it does not.
        order: who, and why.

    Returns:
        The shards that are paused now by this order; an earlier pause of theirs is replaced.
    """
    for_ms = None if for_seconds is None else round(for_seconds * 1000)
    values = {"shard": shard, "for_ms": for_ms, "actor": context.actor, "reason": context.reason}
    lasting = "" if for_seconds is None else f" for {for_seconds:.0f} s"
    with transactions.write(engine) as connection:
        paused = sorted(connection.execute(sql.PAUSE.on(connection), values).scalars())
        if paused:
            audit.add(connection, f"pause {_told(shard)}{lasting}", context, [])
    return paused


def resume_shards(engine: Engine, shard: int | None, context: AuditContext) -> list[int]:
    """End the pause of a shard, or of every one.

    Returns:
        The shards that were paused until now.
    """
    with transactions.write(engine) as connection:
        resumed = sorted(connection.execute(sql.RESUME.on(connection), {"shard": shard}).scalars())
        if resumed:
            audit.add(connection, f"resume {_told(shard)}", context, [])
    return resumed


def _told(shard: int | None) -> str:
    return "every shard" if shard is None else f"shard {shard}"
