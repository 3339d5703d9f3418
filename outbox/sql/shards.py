"""SQL about shards: leases, the relays that share them, pauses, and what operators see of them."""

from outbox.sql.flow import Statement, statement
from outbox.states import RowState
from outbox.verdicts import KAFKA_WENT_BACK

_PAUSED = "(p.until IS NULL OR p.until > {now})"


def _statement(postgresql: str, sqlite: str | None = None) -> Statement:
    """As ``statement``; ``{paused}`` is whether a pause ``p`` still holds."""
    texts = [each.replace("{paused}", _PAUSED) for each in (postgresql, sqlite) if each is not None]
    return statement(*texts)


# Leases --------------------------------------------------------------------------------------------

TAKE_LEASE = _statement("""
    UPDATE outbox_shard SET owner = :owner, epoch = epoch + 1, lease_expires_at = {now} + :lease_ms
    WHERE shard = :shard AND (owner IS NULL OR owner = :owner OR owner = :dead_owner OR lease_expires_at <= {now})
      AND (:paused_too = 1 OR NOT EXISTS (SELECT 1 FROM outbox_pause AS p WHERE p.shard = :shard AND {paused}))
    RETURNING epoch, acknowledged_sequence
""")
RENEW_LEASE = statement("""
    UPDATE outbox_shard
    SET lease_expires_at = {now} + :lease_ms, rows_per_second = :rows_per_second, condition = :condition
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
""")
RELEASE_LEASE = statement("""
    UPDATE outbox_shard SET owner = NULL, lease_expires_at = 0, rows_per_second = 0
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
""")
SET_CONDITION = statement(f"""
    UPDATE outbox_shard SET condition = :condition, rows_per_second = 0
    WHERE shard = :shard AND (owner = :owner OR owner IS NULL OR lease_expires_at <= {{now}})
      AND (coalesce(condition, '') <> coalesce(CAST(:condition AS text), '') OR rows_per_second <> 0)
      AND (coalesce(condition, '') NOT LIKE '{KAFKA_WENT_BACK}%' OR CAST(:condition AS text) LIKE '{KAFKA_WENT_BACK}%')
""")
"""Told again and again, written once. What an operator has to decide is not hidden by an outage meanwhile."""
OWNERS = statement("SELECT shard, owner FROM outbox_shard ORDER BY shard")

# Sharing -------------------------------------------------------------------------------------------

HEARTBEAT = statement("""
    INSERT INTO outbox_relay (owner, joined_at, expires_at, healthy) VALUES (:owner, {now}, {now} + :lease_ms, :healthy)
    ON CONFLICT (owner) DO UPDATE SET expires_at = {now} + :lease_ms, healthy = :healthy
""")
LEAVE = statement("DELETE FROM outbox_relay WHERE owner = :owner")
MEMBERS = statement("""
    SELECT owner, healthy, CASE WHEN expires_at > {now} THEN 1 ELSE 0 END AS live
    FROM outbox_relay ORDER BY joined_at, owner
""")
ASSIGNMENTS = _statement("""
    SELECT s.shard, s.owner, CASE WHEN s.lease_expires_at > {now} THEN 1 ELSE 0 END AS held,
           p.actor AS paused_by, p.reason AS paused_reason
    FROM outbox_shard AS s LEFT JOIN outbox_pause AS p ON p.shard = s.shard AND {paused}
    ORDER BY s.shard
""")

# Pauses --------------------------------------------------------------------------------------------

PAUSE = statement("""
    INSERT INTO outbox_pause (shard, actor, reason, until)
    SELECT shard, :actor, :reason, {now} + CAST(:for_ms AS bigint) FROM outbox_shard
    WHERE shard = CAST(:shard AS integer) OR CAST(:shard AS integer) IS NULL
    ON CONFLICT (shard) DO UPDATE SET actor = excluded.actor, reason = excluded.reason, until = excluded.until
    RETURNING shard
""")
RESUME = _statement("""
    DELETE FROM outbox_pause AS p
    WHERE (shard = CAST(:shard AS integer) OR CAST(:shard AS integer) IS NULL) AND {paused} RETURNING shard
""")

# Resharding ----------------------------------------------------------------------------------------

LOCK_OUTBOX = statement(
    postgresql="LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE",
    sqlite="SELECT 1",  # BEGIN IMMEDIATE has locked
)
TAKE_TIME = statement(
    postgresql="SELECT set_config('statement_timeout', '600000', true), set_config('lock_timeout', '30000', true)",
    sqlite="SELECT 1",
)
"""For the rare transaction that touches every row not yet sent."""
SET_SHARDS = statement("UPDATE outbox_identity SET shards = :shards")
ADD_SHARD = statement("INSERT INTO outbox_shard (shard, acknowledged_sequence) VALUES (:shard, :sequence)")
DROP_SHARDS = statement("DELETE FROM outbox_shard WHERE shard >= :shards")
DROP_PAUSES = statement("DELETE FROM outbox_pause WHERE shard >= :shards")
EXTEND_PAUSE = _statement("""
    INSERT INTO outbox_pause (shard, actor, reason, until)
    SELECT s.shard, p.actor, p.reason, p.until
    FROM outbox_shard AS s JOIN outbox_pause AS p ON p.shard = 0 AND {paused}
    WHERE s.shard >= :old AND NOT EXISTS (
        SELECT 1 FROM outbox_shard AS o WHERE o.shard < :old AND NOT EXISTS (
            SELECT 1 FROM outbox_pause AS p WHERE p.shard = o.shard AND {paused}
        )
    )
    ON CONFLICT (shard) DO NOTHING
""")
"""New shards are paused if every old one is."""

_UNSENT_STATES = [state for state in RowState if state is not RowState.SENT]
UNSENT = [
    statement(f"""
    SELECT id, interaction_id FROM outbox
    WHERE state = '{state}' AND shard = :shard AND id > :after ORDER BY id LIMIT :limit
    """)
    for state in _UNSENT_STATES
]
"""Rows not sent, by state, so that the partial indexes serve: the cost does not follow history."""
MOVE = statement(
    postgresql="""
    UPDATE outbox AS o SET shard = r.shard FROM unnest(CAST(:ids AS bigint[]), CAST(:shards AS int[])) AS r(id, shard)
    WHERE o.id = r.id AND o.state <> 'sent'
    """,
    sqlite="""
    UPDATE outbox SET shard = r.shard
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS shard FROM json_each(:rows)) AS r
    WHERE outbox.id = r.id AND outbox.state <> 'sent'
    """,
)

# Reconciling ---------------------------------------------------------------------------------------

MATCH_RECORDS = statement(
    postgresql="""
    SELECT o.id, o.nonce, o.shard, o.state, o.interaction_id, o.received_at
    FROM unnest(CAST(:ids AS bigint[]), CAST(:interactions AS text[]), CAST(:received AS bigint[]))
         AS r(id, interaction_id, received_at)
    JOIN outbox AS o ON o.id = r.id AND o.interaction_id = r.interaction_id AND o.received_at = r.received_at
    """,
    sqlite="""
    SELECT o.id, o.nonce, o.shard, o.state, o.interaction_id, o.received_at
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS interaction_id, value ->> 2 AS received_at
          FROM json_each(:records)) AS r
    JOIN outbox AS o ON o.id = r.id AND o.interaction_id = r.interaction_id AND o.received_at = r.received_at
    """,
)
"""A record of the topic is this row only if id, interaction and time of receipt all match: a restored
database hands ids out again."""
UNSENT_BEFORE = statement(
    " UNION ALL ".join(
        f"SELECT id FROM outbox WHERE state = '{state}' AND received_at < :moment_ms" for state in _UNSENT_STATES
    ).join(("SELECT count(*) FROM (", ") AS unsent"))
)
ADVANCE_SEQUENCE = statement("""
    UPDATE outbox_shard
    SET acknowledged_sequence = :sequence, progress_sequence = :sequence,
        progress_offset = :offset, progress_digest = :digest,
        condition = NULL
    WHERE shard = :shard
""")
"""An operator's word that what Kafka holds up to this record is dealt with."""
SENT_ABOVE = statement("""
    SELECT id, nonce, received_at, topic FROM outbox
    WHERE shard = :shard AND state = 'sent' AND sequence > :sequence AND id > :after ORDER BY id LIMIT :limit
""")
"""Walks through history once: for the rare moment when Kafka went back in time."""
SEND_AGAIN = statement(
    postgresql="""
    UPDATE outbox AS o SET state = 'pending', sent_at = NULL, sequence = NULL, changed_at = {now}
    FROM unnest(CAST(:ids AS bigint[]), CAST(:nonces AS bigint[])) AS r(id, nonce)
    WHERE o.id = r.id AND o.nonce = r.nonce AND o.state = 'sent'
    """,
    sqlite="""
    UPDATE outbox SET state = 'pending', sent_at = NULL, sequence = NULL, changed_at = {now}
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce FROM json_each(:refs)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND outbox.state = 'sent'
    """,
)

# Status --------------------------------------------------------------------------------------------

STATUS = _statement("""
    SELECT s.shard, s.owner, s.epoch, s.lease_expires_at - {now} AS lease_remaining_ms, s.acknowledged_sequence,
           s.rows_per_second, s.condition,
           (SELECT count(*) FROM outbox WHERE shard = s.shard AND state = 'pending') AS pending,
           (SELECT count(*) FROM
               (SELECT interaction_id, min(id) AS id FROM outbox
                WHERE shard = s.shard AND state = 'parked' GROUP BY interaction_id) AS f
               JOIN outbox AS o ON o.shard = s.shard AND o.state = 'pending'
                               AND o.interaction_id = f.interaction_id AND o.id > f.id) AS waiting,
           (SELECT count(*) FROM outbox WHERE shard = s.shard AND state = 'parked') AS parked,
           (SELECT count(*) FROM outbox WHERE shard = s.shard AND state = 'discarded') AS discarded,
           {now} - (SELECT received_at FROM outbox WHERE shard = s.shard AND state = 'pending'
                    ORDER BY id LIMIT 1) AS oldest_age_ms,
           p.actor AS paused_by, p.reason AS paused_reason, p.until AS paused_until_ms
    FROM outbox_shard AS s LEFT JOIN outbox_pause AS p ON p.shard = s.shard AND {paused}
    ORDER BY s.shard
""")
"""Counts come from the partial indexes: their cost follows what is pending, not history."""
