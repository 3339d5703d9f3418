"""The SQL that counts what waits, at a cost that follows neither history nor the size of the backlog."""

from outbox.sql.statement import statement

PREFER_INDEX_SCANS = statement(
    postgresql="SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)",
    sqlite="SELECT 1",
)
"""Makes PostgreSQL use the indexes for the rest of the transaction, whatever its statistics say."""

BACKLOG = statement(
    postgresql="""
    SELECT
        (SELECT count(*) FROM (SELECT 1 FROM outbox_pending LIMIT :limit) AS p) AS pending,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_parked WHERE state = 'parked' LIMIT :limit) AS p) AS parked,
        (SELECT max(CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) - (
             SELECT received_at FROM outbox
             WHERE id = (SELECT w.id FROM outbox_pending AS w WHERE w.shard = s.shard ORDER BY w.id LIMIT 1)
         )) FROM outbox_shard AS s) AS oldest_age_ms,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_inference_call WHERE state = 'due' LIMIT :limit) AS c)
            AS calls_due,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_inference_call WHERE state = 'parked' LIMIT :limit) AS c)
            AS calls_parked
    """,
    sqlite="""
    SELECT
        (SELECT count(*) FROM (SELECT 1 FROM outbox_pending LIMIT :limit) AS p) AS pending,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_parked WHERE state = 'parked' LIMIT :limit) AS p) AS parked,
        (SELECT max(CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - (
             SELECT received_at FROM outbox
             WHERE id = (SELECT w.id FROM outbox_pending AS w WHERE w.shard = s.shard ORDER BY w.id LIMIT 1)
         )) FROM outbox_shard AS s) AS oldest_age_ms,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_inference_call WHERE state = 'due' LIMIT :limit) AS c)
            AS calls_due,
        (SELECT count(*) FROM (SELECT 1 FROM outbox_inference_call WHERE state = 'parked' LIMIT :limit) AS c)
            AS calls_parked
    """,
)
"""Counts each kind up to a limit; the oldest row is the first pending one of a shard."""

PENDING_UP_TO = statement("""
    SELECT count(*) FROM (SELECT 1 FROM outbox_pending LIMIT :limit) AS pending
""")
"""Counts pending rows up to a limit."""

SHARDS = statement(
    postgresql="""
    SELECT count(*) AS shards,
           coalesce(sum(CASE WHEN p.shard IS NOT NULL THEN 1 ELSE 0 END), 0) AS paused,
           coalesce(sum(CASE WHEN p.shard IS NULL AND s.owner IS NOT NULL
                              AND s.lease_expires_at > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
                             THEN 1 ELSE 0 END), 0) AS owned
    FROM outbox_shard AS s
    LEFT JOIN outbox_pause AS p ON p.shard = s.shard
        AND (p.until IS NULL OR p.until > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    """,
    sqlite="""
    SELECT count(*) AS shards,
           coalesce(sum(CASE WHEN p.shard IS NOT NULL THEN 1 ELSE 0 END), 0) AS paused,
           coalesce(sum(CASE WHEN p.shard IS NULL AND s.owner IS NOT NULL
                              AND s.lease_expires_at > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
                             THEN 1 ELSE 0 END), 0) AS owned
    FROM outbox_shard AS s
    LEFT JOIN outbox_pause AS p ON p.shard = s.shard
        AND (p.until IS NULL OR p.until > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    """,
)
"""Counts shards: all, paused ones, and those with an owner whose lease has not expired and that are not paused."""
