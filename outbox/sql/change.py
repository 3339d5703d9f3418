"""The SQL that changes planned rows.

A planned row is named by its id, its nonce and the time of its last change. A row that is no longer as it was planned
does not match, and is left alone.
"""

from outbox.sql.statement import move, statement

# Locks ---------------------------------------------------------------------------------------------

LOCK_SHARDS = statement(
    postgresql="""
    SELECT shard FROM outbox_shard
    WHERE shard IN (SELECT shard FROM outbox_parked WHERE id = ANY(CAST(:ids AS bigint[])))
    ORDER BY shard FOR UPDATE
    """,
    sqlite="SELECT DISTINCT shard FROM outbox_parked WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Locks the shards of planned parked rows, in order, so that two operators cannot deadlock. On SQLite
``BEGIN IMMEDIATE`` has locked the database."""

LOCK_ROWS = statement(
    postgresql="SELECT id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE",
    sqlite="SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Locks rows in order, so that two operators cannot deadlock."""

LOCK_ROWS_FOR_SHARE = statement(
    postgresql="""
    SELECT id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR SHARE
    """,
    sqlite="SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Keeps rows from being pruned or erased before the transaction ends."""

# Rows ----------------------------------------------------------------------------------------------

RETRY = move(
    postgresql="""
    WITH moved AS (
        DELETE FROM outbox_parked AS p
        USING unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
              AS r(id, nonce, changed_at)
        WHERE p.id = r.id AND p.nonce = r.nonce AND p.changed_at = r.changed_at
          AND p.state = 'parked' AND p.shard = ANY(CAST(:shards AS smallint[]))
        RETURNING p.shard, p.id, p.nonce
    )
    INSERT INTO outbox_pending (shard, id, nonce) SELECT shard, id, nonce FROM moved RETURNING id
    """,
    sqlite=[
        """
    INSERT INTO outbox_pending (shard, id, nonce)
    SELECT p.shard, p.id, p.nonce
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
    JOIN outbox_parked AS p ON p.id = r.id AND p.nonce = r.nonce AND p.changed_at = r.changed_at
    WHERE p.state = 'parked' AND p.shard IN (SELECT value FROM json_each(:shards))
    RETURNING id
    """,
        """
    DELETE FROM outbox_parked
    WHERE id IN (SELECT value ->> 0 FROM json_each(:rows))
      AND EXISTS (SELECT 1 FROM outbox_pending AS w WHERE w.shard = outbox_parked.shard AND w.id = outbox_parked.id)
    """,
    ],
)
"""Makes parked rows pending. Needs the locks of their shards."""
DISCARD = statement(
    postgresql="""
    UPDATE outbox_parked AS p
    SET state = 'discarded', changed_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
         AS r(id, nonce, changed_at)
    WHERE p.id = r.id AND p.nonce = r.nonce AND p.changed_at = r.changed_at
      AND p.state = 'parked' AND p.shard = ANY(CAST(:shards AS smallint[]))
    RETURNING p.id
    """,
    sqlite="""
    UPDATE outbox_parked
    SET state = 'discarded', changed_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
    WHERE outbox_parked.id = r.id AND outbox_parked.nonce = r.nonce AND outbox_parked.changed_at = r.changed_at
      AND state = 'parked' AND shard IN (SELECT value FROM json_each(:shards))
    RETURNING outbox_parked.id
    """,
)
"""Makes parked rows discarded. Needs the locks of their shards."""
ERASE = statement(
    postgresql="""
    UPDATE outbox AS o
    SET customer_email = NULL, payload = :erased, payload_digest = NULL,
        enriched_at = coalesce(o.enriched_at, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
             AS r(id, nonce, changed_at)
         LEFT JOIN outbox_parked AS p ON p.id = r.id
    WHERE o.id = r.id AND o.nonce = r.nonce AND coalesce(p.changed_at, 0) = r.changed_at
    RETURNING o.id
    """,
    sqlite="""
    UPDATE outbox
    SET customer_email = NULL, payload = :erased, payload_digest = NULL,
        enriched_at = coalesce(enriched_at, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
         LEFT JOIN outbox_parked AS p ON p.id = r.id
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(p.changed_at, 0) = r.changed_at
    RETURNING outbox.id
    """,
)
"""Removes the personal data of rows in any state. What was erased is not fetched again. Needs the locks of the rows."""

REPLAY = statement(
    postgresql="""
    WITH added AS (
        INSERT INTO outbox (
            nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
            payload_digest, traceparent, received_at, replay_of, replay_plan, enriched_at, topic
        )
        SELECT r.new_nonce, decode(r.key, 'hex'), o.interaction_hash, o.interaction_id, o.channel, o.timestamp_ms,
               o.customer_email, o.agent_id, o.payload, o.payload_digest, o.traceparent,
               CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint), o.id, CAST(:plan AS text), o.enriched_at,
               CAST(:topic AS text)
        FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:new_nonce AS bigint[]),
                    CAST(:key AS text[])) AS r(id, nonce, new_nonce, key)
        JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
        WHERE o.replay_plan IS DISTINCT FROM CAST(:plan AS text)
          AND (EXISTS (SELECT 1 FROM outbox_sent AS s WHERE s.id = o.id)
               OR EXISTS (SELECT 1 FROM outbox_parked AS p WHERE p.id = o.id AND p.state = 'discarded'))
        ORDER BY o.id
        ON CONFLICT (key) DO NOTHING
        RETURNING id, nonce, interaction_hash, replay_of
    ),
    pending AS (
        INSERT INTO outbox_pending (shard, id, nonce)
        SELECT mod(a.interaction_hash, i.shards), a.id, a.nonce FROM added AS a, outbox_identity AS i
    )
    SELECT replay_of FROM added
    """,
    sqlite="""
    INSERT INTO outbox (
        nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
        payload_digest, traceparent, received_at, replay_of, replay_plan, enriched_at, topic
    )
    SELECT r.new_nonce, unhex(r.key), o.interaction_hash, o.interaction_id, o.channel, o.timestamp_ms,
           o.customer_email, o.agent_id, o.payload, o.payload_digest, o.traceparent,
           CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), o.id, :plan, o.enriched_at, :topic
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS new_nonce, value ->> 3 AS key
          FROM json_each(:rows)) AS r
    JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
    WHERE o.replay_plan IS NOT :plan
      AND (EXISTS (SELECT 1 FROM outbox_sent AS s WHERE s.id = o.id)
           OR EXISTS (SELECT 1 FROM outbox_parked AS p WHERE p.id = o.id AND p.state = 'discarded'))
    ORDER BY o.id
    ON CONFLICT (key) DO NOTHING
    RETURNING replay_of
    """,
)
"""Inserts new rows with the content of old ones; on SQLite a trigger makes them pending. A plan's key for a row is
unique, and rows that the plan itself made are excluded, so an interrupted plan can be run again."""

# Inference calls -----------------------------------------------------------------------------------

CALL_AGAIN = statement(
    postgresql="""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT outbox.id, outbox.interaction_id, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[])) AS r(id, nonce)
    JOIN outbox ON outbox.id = r.id AND outbox.nonce = r.nonce
    JOIN outbox_sent AS s ON s.id = outbox.id
    WHERE true
    ON CONFLICT (row_id) DO UPDATE
    SET state = 'due', attempts = 0, due_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint),
        claimed_by = NULL, error = NULL
    WHERE outbox_inference_call.state <> 'due'
    RETURNING row_id
    """,
    sqlite="""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT outbox.id, outbox.interaction_id, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce FROM json_each(:rows)) AS r
    JOIN outbox ON outbox.id = r.id AND outbox.nonce = r.nonce
    JOIN outbox_sent AS s ON s.id = outbox.id
    WHERE true
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
