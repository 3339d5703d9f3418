"""The SQL that changes planned rows.

A planned row is named by its id, its nonce and the time of its last change. A row that is no longer as it was planned
does not match, and is left alone.
"""

from outbox.sql.statement import statement

# Locks ---------------------------------------------------------------------------------------------

LOCK_SHARDS = statement(
    postgresql="""
    SELECT shard FROM outbox_shard
    WHERE shard IN (SELECT shard FROM outbox WHERE id = ANY(CAST(:ids AS bigint[])))
    ORDER BY shard FOR UPDATE
    """,
    sqlite="SELECT DISTINCT shard FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Locks the shards of planned rows, in order, so that two operators cannot deadlock. On SQLite ``BEGIN IMMEDIATE`` has
locked the database."""

LOCK_ROWS_FOR_SHARE = statement(
    postgresql="""
    SELECT id, interaction_id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR SHARE
    """,
    sqlite="SELECT id, interaction_id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Keeps rows from being pruned or erased before the transaction ends."""

# Rows ----------------------------------------------------------------------------------------------

RETRY = statement(
    postgresql="""
    UPDATE outbox
    SET state = 'pending', error = NULL, changed_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
         AS r(id, nonce, changed_at)
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
      AND outbox.state = 'parked' AND outbox.shard = ANY(CAST(:shards AS smallint[]))
    RETURNING outbox.id
    """,
    sqlite="""
    UPDATE outbox
    SET state = 'pending', error = NULL, changed_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
      AND outbox.state = 'parked' AND outbox.shard IN (SELECT value FROM json_each(:shards))
    RETURNING outbox.id
    """,
)
"""Makes parked rows pending. Needs the locks of their shards."""
DISCARD = statement(
    postgresql="""
    UPDATE outbox
    SET state = 'discarded', changed_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
         AS r(id, nonce, changed_at)
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
      AND outbox.state = 'parked' AND outbox.shard = ANY(CAST(:shards AS smallint[]))
    RETURNING outbox.id
    """,
    sqlite="""
    UPDATE outbox
    SET state = 'discarded', changed_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
      AND outbox.state = 'parked' AND outbox.shard IN (SELECT value FROM json_each(:shards))
    RETURNING outbox.id
    """,
)
"""Makes parked rows discarded. Needs the locks of their shards."""
ERASE = statement(
    postgresql="""
    UPDATE outbox
    SET customer_email = NULL, payload = :erased, payload_digest = NULL,
        enriched_at = coalesce(enriched_at, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
         AS r(id, nonce, changed_at)
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
      AND (outbox.state = 'sent' OR outbox.shard = ANY(CAST(:shards AS smallint[])))
    RETURNING outbox.id
    """,
    sqlite="""
    UPDATE outbox
    SET customer_email = NULL, payload = :erased, payload_digest = NULL,
        enriched_at = coalesce(enriched_at, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
      AND (outbox.state = 'sent' OR outbox.shard IN (SELECT value FROM json_each(:shards)))
    RETURNING outbox.id
    """,
)
"""Removes the personal data of rows. Needs the locks of their shards, so that it cannot deadlock with a relay that
marks rows sent; no relay marks a sent row, whose shard may no longer exist. What was erased is not fetched again."""

REPLAY = statement(
    postgresql="""
    INSERT INTO outbox (
        nonce, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload, payload_digest,
        traceparent, received_at, replay_of, enriched_at, topic
    )
    SELECT r.new_nonce, :prefix || o.id, r.hash % i.shards, o.interaction_id, o.channel, o.timestamp_ms,
           o.customer_email, o.agent_id, o.payload, o.payload_digest, o.traceparent,
           CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint), o.id, o.enriched_at, CAST(:topic AS text)
    FROM outbox_identity AS i,
         unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:new_nonce AS bigint[]), CAST(:hash AS bigint[]))
             AS r(id, nonce, new_nonce, hash)
    JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
    WHERE o.state IN ('sent', 'discarded') AND substr(o.key, 1, length(:prefix)) <> :prefix
    ORDER BY o.id
    ON CONFLICT (key) DO NOTHING
    RETURNING replay_of
    """,
    sqlite="""
    INSERT INTO outbox (
        nonce, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload, payload_digest,
        traceparent, received_at, replay_of, enriched_at, topic
    )
    SELECT r.new_nonce, :prefix || o.id, r.hash % i.shards, o.interaction_id, o.channel, o.timestamp_ms,
           o.customer_email, o.agent_id, o.payload, o.payload_digest, o.traceparent,
           CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), o.id, o.enriched_at, :topic
    FROM outbox_identity AS i,
         (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS new_nonce, value ->> 3 AS hash
          FROM json_each(:rows)) AS r
    JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
    WHERE o.state IN ('sent', 'discarded') AND substr(o.key, 1, length(:prefix)) <> :prefix
    ORDER BY o.id
    ON CONFLICT (key) DO NOTHING
    RETURNING replay_of
    """,
)
"""Inserts new rows with the content of old ones. A plan's key for a row is unique, and rows that the plan itself made
are excluded, so an interrupted plan can be run again."""

# Inference calls -----------------------------------------------------------------------------------

CALL_AGAIN = statement(
    postgresql="""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT outbox.id, outbox.interaction_id, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM outbox
    JOIN unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
         AS r(id, nonce, changed_at)
      ON outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
    WHERE outbox.state = 'sent'
    ON CONFLICT (row_id) DO UPDATE
    SET state = 'due', attempts = 0, due_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint),
        claimed_by = NULL, error = NULL
    WHERE outbox_inference_call.state <> 'due'
    RETURNING row_id
    """,
    sqlite="""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT outbox.id, outbox.interaction_id, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM outbox
    JOIN (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
      ON outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
    WHERE outbox.state = 'sent'
    ON CONFLICT (row_id) DO UPDATE
    SET state = 'due', attempts = 0, due_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        claimed_by = NULL, error = NULL
    WHERE outbox_inference_call.state <> 'due'
    RETURNING row_id
    """,
)
"""Makes the calls of sent rows due, unless they are; adds a call where there is none."""
RETRY_CALLS = statement(
    postgresql="""
    UPDATE outbox_inference_call
    SET state = 'due', attempts = 0, due_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint),
        claimed_by = NULL, error = NULL
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
         AS r(id, nonce, changed_at)
    JOIN outbox ON outbox.id = r.id AND outbox.nonce = r.nonce
    WHERE outbox_inference_call.row_id = r.id AND outbox_inference_call.state = 'parked'
      AND outbox_inference_call.due_at = r.changed_at
    RETURNING row_id
    """,
    sqlite="""
    UPDATE outbox_inference_call
    SET state = 'due', attempts = 0, due_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        claimed_by = NULL, error = NULL
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
    JOIN outbox ON outbox.id = r.id AND outbox.nonce = r.nonce
    WHERE outbox_inference_call.row_id = r.id AND outbox_inference_call.state = 'parked'
      AND outbox_inference_call.due_at = r.changed_at
    RETURNING row_id
    """,
)
"""Makes parked calls due. ``due_at`` is when a call was parked: one that was parked again since is left alone."""
