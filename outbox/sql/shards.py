"""The SQL of shards: leases, the relays that share the shards, pauses, and the status of each shard."""

from outbox.sql.statement import statement

# Leases --------------------------------------------------------------------------------------------
#
# No lease or heartbeat lasts longer than ten minutes (RELAY_LEASE_SECONDS). One that seems to was written before the
# database's clock was set back: it counts as expired, or a relay that ended then would be waited for until the clock
# has caught up.

TAKE_LEASE = statement(
    postgresql="""
    UPDATE outbox_shard
    SET owner = :owner, epoch = epoch + 1,
        lease_expires_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + :lease_ms
    WHERE shard = :shard
      AND (owner IS NULL OR owner = :owner OR owner = :dead_owner
           OR lease_expires_at <= CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
           OR lease_expires_at > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + 600000)
      AND (:paused_too = 1 OR NOT EXISTS (
          SELECT 1 FROM outbox_pause AS p
          WHERE p.shard = :shard
            AND (p.until IS NULL OR p.until > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
      ))
    RETURNING epoch, acknowledged_sequence
    """,
    sqlite="""
    UPDATE outbox_shard
    SET owner = :owner, epoch = epoch + 1,
        lease_expires_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + :lease_ms
    WHERE shard = :shard
      AND (owner IS NULL OR owner = :owner OR owner = :dead_owner
           OR lease_expires_at <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
           OR lease_expires_at > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + 600000)
      AND (:paused_too = 1 OR NOT EXISTS (
          SELECT 1 FROM outbox_pause AS p
          WHERE p.shard = :shard
            AND (p.until IS NULL OR p.until > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
      ))
    RETURNING epoch, acknowledged_sequence
    """,
)
"""Takes a shard that is free, the caller's own, a dead relay's or expired, with a new epoch."""

RENEW_LEASE = statement(
    postgresql="""
    UPDATE outbox_shard
    SET lease_expires_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + :lease_ms,
        rows_per_second = :rows_per_second, condition = :condition
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
    """,
    sqlite="""
    UPDATE outbox_shard
    SET lease_expires_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + :lease_ms,
        rows_per_second = :rows_per_second, condition = :condition
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
    """,
)
"""Extends a lease, and stores the rate and the condition of its shard."""
EXTEND_LEASE = statement(
    postgresql="""
    UPDATE outbox_shard
    SET lease_expires_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + :lease_ms
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
    """,
    sqlite="""
    UPDATE outbox_shard
    SET lease_expires_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + :lease_ms
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
    """,
)
"""Extends a lease; the condition of its shard stays."""
RELEASE_LEASE = statement("""
    UPDATE outbox_shard SET owner = NULL, lease_expires_at = 0, rows_per_second = 0
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
""")
"""Frees a shard."""

SET_CONDITION = statement(
    postgresql="""
    UPDATE outbox_shard SET condition = :condition, rows_per_second = 0
    WHERE shard = :shard
      AND (owner = :owner OR owner IS NULL
           OR lease_expires_at <= CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
           OR lease_expires_at > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + 600000)
      AND (coalesce(condition, '') <> coalesce(CAST(:condition AS text), '') OR rows_per_second <> 0)
      AND (coalesce(condition, '') NOT LIKE :kafka_went_back OR CAST(:condition AS text) LIKE :kafka_went_back)
    """,
    sqlite="""
    UPDATE outbox_shard SET condition = :condition, rows_per_second = 0
    WHERE shard = :shard
      AND (owner = :owner OR owner IS NULL
           OR lease_expires_at <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
           OR lease_expires_at > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + 600000)
      AND (coalesce(condition, '') <> coalesce(:condition, '') OR rows_per_second <> 0)
      AND (coalesce(condition, '') NOT LIKE :kafka_went_back OR :condition LIKE :kafka_went_back)
    """,
)
"""Stores why a shard does not move; writes only a change. A condition that waits for an operator is not overwritten by
an outage."""

OWNERS = statement("SELECT shard, owner FROM outbox_shard ORDER BY shard")
"""The owner of each shard."""

# The relays that share the shards ------------------------------------------------------------------

HEARTBEAT = statement(
    postgresql="""
    INSERT INTO outbox_relay (owner, joined_at, expires_at, healthy)
    VALUES (:owner, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint),
            CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + :lease_ms, :healthy)
    ON CONFLICT (owner) DO UPDATE
    SET expires_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + :lease_ms, healthy = :healthy
    """,
    sqlite="""
    INSERT INTO outbox_relay (owner, joined_at, expires_at, healthy)
    VALUES (:owner, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
            CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + :lease_ms, :healthy)
    ON CONFLICT (owner) DO UPDATE
    SET expires_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + :lease_ms, healthy = :healthy
    """,
)
"""Adds a relay, or extends its membership."""
LEAVE = statement("DELETE FROM outbox_relay WHERE owner = :owner")
"""Removes a relay."""

MEMBERS = statement(
    postgresql="""
    SELECT owner, healthy,
           CASE WHEN expires_at > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
                 AND expires_at <= CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + 600000
                THEN 1 ELSE 0 END AS live
    FROM outbox_relay ORDER BY joined_at, owner
    """,
    sqlite="""
    SELECT owner, healthy,
           CASE WHEN expires_at > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
                 AND expires_at <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + 600000
                THEN 1 ELSE 0 END AS live
    FROM outbox_relay ORDER BY joined_at, owner
    """,
)
"""The relays, and whether their heartbeats have expired."""
ASSIGNMENTS = statement(
    postgresql="""
    SELECT s.shard, s.owner,
           CASE WHEN s.lease_expires_at > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
                 AND s.lease_expires_at <= CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + 600000
                THEN 1 ELSE 0 END AS leased,
           p.actor AS paused_by, p.reason AS paused_reason
    FROM outbox_shard AS s
    LEFT JOIN outbox_pause AS p ON p.shard = s.shard
        AND (p.until IS NULL OR p.until > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    ORDER BY s.shard
    """,
    sqlite="""
    SELECT s.shard, s.owner,
           CASE WHEN s.lease_expires_at > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
                 AND s.lease_expires_at <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + 600000
                THEN 1 ELSE 0 END AS leased,
           p.actor AS paused_by, p.reason AS paused_reason
    FROM outbox_shard AS s
    LEFT JOIN outbox_pause AS p ON p.shard = s.shard
        AND (p.until IS NULL OR p.until > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    ORDER BY s.shard
    """,
)
"""The owner of each shard, whether its lease has expired, and whether it is paused."""

# Pauses --------------------------------------------------------------------------------------------

PAUSE = statement(
    postgresql="""
    INSERT INTO outbox_pause (shard, actor, reason, until)
    SELECT shard, :actor, :reason,
           CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + CAST(:for_ms AS bigint)
    FROM outbox_shard
    WHERE shard = CAST(:shard AS integer) OR CAST(:shard AS integer) IS NULL
    ON CONFLICT (shard) DO UPDATE SET actor = excluded.actor, reason = excluded.reason, until = excluded.until
    RETURNING shard
    """,
    sqlite="""
    INSERT INTO outbox_pause (shard, actor, reason, until)
    SELECT shard, :actor, :reason, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + :for_ms
    FROM outbox_shard
    WHERE shard = :shard OR :shard IS NULL
    ON CONFLICT (shard) DO UPDATE SET actor = excluded.actor, reason = excluded.reason, until = excluded.until
    RETURNING shard
    """,
)
"""Pauses one shard, or every shard (NULL), for a time or until it is resumed (NULL)."""

RESUME = statement(
    postgresql="""
    DELETE FROM outbox_pause
    WHERE (shard = CAST(:shard AS integer) OR CAST(:shard AS integer) IS NULL)
      AND (until IS NULL OR until > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    RETURNING shard
    """,
    sqlite="""
    DELETE FROM outbox_pause
    WHERE (shard = :shard OR :shard IS NULL)
      AND (until IS NULL OR until > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    RETURNING shard
    """,
)
"""Ends the pause of one shard, or of every shard (NULL)."""

# Status --------------------------------------------------------------------------------------------

STATUS = statement(
    postgresql="""
    SELECT s.shard, s.owner, s.epoch,
           s.lease_expires_at - CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) AS lease_remaining_ms,
           s.acknowledged_sequence, s.rows_per_second, s.condition,
           (SELECT count(*) FROM outbox_pending WHERE shard = s.shard) AS pending,
           (SELECT CAST(coalesce(sum((
                SELECT count((SELECT w.id FROM outbox_pending AS w WHERE w.shard = s.shard AND w.id = o.id))
                FROM outbox AS o WHERE o.interaction_id = f.interaction_id AND o.id + 0 > f.id
            )), 0) AS bigint)
            FROM (SELECT interaction_id, min(id) AS id FROM outbox_parked
                  WHERE shard = s.shard AND state = 'parked' GROUP BY interaction_id) AS f) AS waiting,
           (SELECT count(*) FROM outbox_parked WHERE shard = s.shard AND state = 'parked') AS parked,
           (SELECT count(*) FROM outbox_parked WHERE shard = s.shard AND state = 'discarded') AS discarded,
           CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) - (
               SELECT received_at FROM outbox
               WHERE id = (SELECT w.id FROM outbox_pending AS w WHERE w.shard = s.shard ORDER BY w.id LIMIT 1)
           ) AS oldest_age_ms,
           p.actor AS paused_by, p.reason AS paused_reason, p.until AS paused_until_ms
    FROM outbox_shard AS s
    LEFT JOIN outbox_pause AS p ON p.shard = s.shard
        AND (p.until IS NULL OR p.until > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    ORDER BY s.shard
    """,
    sqlite="""
    SELECT s.shard, s.owner, s.epoch,
           s.lease_expires_at - CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS lease_remaining_ms,
           s.acknowledged_sequence, s.rows_per_second, s.condition,
           (SELECT count(*) FROM outbox_pending WHERE shard = s.shard) AS pending,
           (SELECT CAST(coalesce(sum((
                SELECT count((SELECT w.id FROM outbox_pending AS w WHERE w.shard = s.shard AND w.id = o.id))
                FROM outbox AS o WHERE o.interaction_id = f.interaction_id AND o.id + 0 > f.id
            )), 0) AS bigint)
            FROM (SELECT interaction_id, min(id) AS id FROM outbox_parked
                  WHERE shard = s.shard AND state = 'parked' GROUP BY interaction_id) AS f) AS waiting,
           (SELECT count(*) FROM outbox_parked WHERE shard = s.shard AND state = 'parked') AS parked,
           (SELECT count(*) FROM outbox_parked WHERE shard = s.shard AND state = 'discarded') AS discarded,
           CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - (
               SELECT received_at FROM outbox
               WHERE id = (SELECT w.id FROM outbox_pending AS w WHERE w.shard = s.shard ORDER BY w.id LIMIT 1)
           ) AS oldest_age_ms,
           p.actor AS paused_by, p.reason AS paused_reason, p.until AS paused_until_ms
    FROM outbox_shard AS s
    LEFT JOIN outbox_pause AS p ON p.shard = s.shard
        AND (p.until IS NULL OR p.until > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    ORDER BY s.shard
    """,
)
"""Shows each shard to operators. The cost of the counts follows the backlog, not history. Waiting rows are counted for
one parked interaction at a time, each looked up among the pending ones: PostgreSQL without statistics would join all
pending rows for each interaction, or, without ``+ 0``, read the index of ids to its end."""
