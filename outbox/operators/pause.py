"""Pausing shards: no relay sends a paused shard until it is resumed or the pause expires."""

from typing import NamedTuple

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.operators import audit
from outbox.operators.audit import AuditContext
from outbox.operators.format import format_shards
from outbox.sql import shards as sql


class PauseChange(NamedTuple):
    """What pausing or resuming did."""

    shards: list[int]
    """Empty: nothing was changed."""
    text: str
    """For the operator: what was done, or why nothing was."""
    entry_id: int | None = None
    """The audit entry; None: nothing was changed."""


def pause_shards(engine: Engine, shard: int | None, for_seconds: float | None, context: AuditContext) -> PauseChange:
    """Pause a shard, or every shard; relays release it after the current batch. Replaces an earlier pause.

    Args:
        shard: number of the shard; None: every shard.
        for_seconds: after this time the pause ends by itself; None: it does not.
        context: for the audit.
    """
    for_ms = None if for_seconds is None else round(for_seconds * 1000)
    values = {"shard": shard, "for_ms": for_ms, "actor": context.actor, "reason": context.reason}
    duration = "" if for_seconds is None else f" for {for_seconds:.0f} s"
    with transactions.write(engine) as connection:
        paused = sorted(connection.execute(sql.PAUSE.on(connection), values).scalars())
        if not paused:
            return PauseChange([], f"no such shard: {shard}")
        entry_id = audit.add(connection, f"pause {_format_shard(shard)}{duration}", context, [])
    end = f"{duration} or until relay resume" if duration else " until relay resume"
    return PauseChange(paused, f"paused {format_shards(paused)}{end}", entry_id)


def resume_shards(engine: Engine, shard: int | None, context: AuditContext) -> PauseChange:
    """End the pause of a shard, or of every shard."""
    with transactions.write(engine) as connection:
        resumed = sorted(connection.execute(sql.RESUME.on(connection), {"shard": shard}).scalars())
        if not resumed:
            return PauseChange([], "nothing is paused" if shard is None else f"shard {shard} is not paused")
        entry_id = audit.add(connection, f"resume {_format_shard(shard)}", context, [])
    return PauseChange(resumed, f"resumed {format_shards(resumed)}", entry_id)


def _format_shard(shard: int | None) -> str:
    return "every shard" if shard is None else f"shard {shard}"
