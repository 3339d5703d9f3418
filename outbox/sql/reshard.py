"""The SQL that changes the number of shards."""

from outbox.sql.statement import statement

LOCK_OUTBOX = statement(
    postgresql="LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE",
    sqlite="SELECT 1",
)
"""Keeps rows from being inserted; on SQLite ``BEGIN IMMEDIATE`` has locked the database."""

RAISE_TIMEOUTS = statement(
    postgresql="SELECT set_config('statement_timeout', '600000', true), set_config('lock_timeout', '30000', true)",
    sqlite="SELECT 1",
)
"""Gives a rare transaction time to read or change many rows."""

SET_SHARDS = statement("UPDATE outbox_identity SET shards = :shards")
"""Changes the number of shards, which inserts read."""
ADD_SHARD = statement("INSERT INTO outbox_shard (shard, acknowledged_sequence) VALUES (:shard, :sequence)")
"""Adds a shard, with its last sequence if it was used before."""
DROP_SHARDS = statement("DELETE FROM outbox_shard WHERE shard >= :shards")
"""Removes the shards above the new number."""
DROP_PAUSES = statement("DELETE FROM outbox_pause WHERE shard >= :shards")
"""Removes their pauses."""

EXTEND_PAUSE = statement(
    postgresql="""
    INSERT INTO outbox_pause (shard, actor, reason, until)
    SELECT s.shard, p.actor, p.reason, p.until
    FROM outbox_shard AS s
    JOIN outbox_pause AS p ON p.shard = 0
        AND (p.until IS NULL OR p.until > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    WHERE s.shard >= :old AND NOT EXISTS (
        SELECT 1 FROM outbox_shard AS o WHERE o.shard < :old AND NOT EXISTS (
            SELECT 1 FROM outbox_pause AS p
            WHERE p.shard = o.shard
              AND (p.until IS NULL OR p.until > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
        )
    )
    ON CONFLICT (shard) DO NOTHING
    """,
    sqlite="""
    INSERT INTO outbox_pause (shard, actor, reason, until)
    SELECT s.shard, p.actor, p.reason, p.until
    FROM outbox_shard AS s
    JOIN outbox_pause AS p ON p.shard = 0
        AND (p.until IS NULL OR p.until > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    WHERE s.shard >= :old AND NOT EXISTS (
        SELECT 1 FROM outbox_shard AS o WHERE o.shard < :old AND NOT EXISTS (
            SELECT 1 FROM outbox_pause AS p
            WHERE p.shard = o.shard
              AND (p.until IS NULL OR p.until > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
        )
    )
    ON CONFLICT (shard) DO NOTHING
    """,
)
"""Pauses the new shards if every old one is paused."""

COUNT_MOVING = statement("""
    SELECT count(*) AS unsent, count(*) FILTER (WHERE u.shard <> o.interaction_hash % :shards) AS moving
    FROM (SELECT id, shard FROM outbox_pending UNION ALL SELECT id, shard FROM outbox_parked) AS u
    JOIN outbox AS o ON o.id = u.id
""")
"""Counts the rows that are not sent, and those of them whose shard would change."""

MOVES = tuple(
    statement(f"""
    UPDATE {table} SET shard = o.interaction_hash % :shards
    FROM outbox AS o WHERE o.id = {table}.id AND {table}.shard <> o.interaction_hash % :shards
    """)
    for table in ("outbox_pending", "outbox_parked")
)
"""Move unsent rows to the shards of their interactions. Sent rows keep the shard that sent them."""
