"""The SQL of ``Store``: selecting, marking, parking and enriching rows, and the identity of the outbox.

Ids are assigned before commits, so a row may appear below ids that were already sent: rows are found among the pending
ones, never by the last id seen.
"""

from outbox.sql.statement import move, statement

# Selecting -----------------------------------------------------------------------------------------

SELECT_PENDING = statement(
    postgresql="""
    SELECT o.id, o.nonce, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at, o.enriched_at, o.topic
    FROM (
        SELECT w.id FROM outbox_pending AS w
        WHERE (w.shard, w.id) > (:shard, 0) AND (w.shard, w.id) < (:shard + 1, 0)
          AND EXISTS (
              SELECT 1 FROM outbox_shard
              WHERE shard = :shard AND owner = :owner AND epoch = :epoch
                AND acknowledged_sequence = :acknowledged_sequence
          )
        ORDER BY w.shard, w.id LIMIT :limit
    ) AS w
    JOIN outbox AS o ON o.id = w.id
    ORDER BY w.id
    """,
    sqlite="""
    SELECT o.id, o.nonce, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at, o.enriched_at, o.topic
    FROM (
        SELECT w.id FROM outbox_pending AS w
        WHERE w.shard = :shard
          AND EXISTS (
              SELECT 1 FROM outbox_shard
              WHERE shard = :shard AND owner = :owner AND epoch = :epoch
                AND acknowledged_sequence = :acknowledged_sequence
          )
        ORDER BY w.id LIMIT :limit
    ) AS w
    JOIN outbox AS o ON o.id = w.id
    ORDER BY w.id
    """,
)
"""Pending rows of a shard, in one snapshot with the lease: empty if lease or acknowledged sequence are no longer the
caller's. The limit is inside, so that no plan reads more of ``outbox`` than these rows, whatever the statistics say.
The range of (shard, id) makes PostgreSQL follow the primary key and stop at the limit. With ``shard = :shard`` and no
statistics it expects few rows, reads all pending ones of the shard and sorts them, for every batch."""

SELECT_PENDING_UNBLOCKED = statement(
    postgresql="""
    SELECT o.id, o.nonce, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at, o.enriched_at, o.topic
    FROM (
        SELECT w.id FROM outbox_pending AS w
        WHERE (w.shard, w.id) > (:shard, 0) AND (w.shard, w.id) < (:shard + 1, 0)
          AND (
              NOT EXISTS (SELECT 1 FROM outbox_parked WHERE shard = :shard AND state = 'parked')
              OR (
                  SELECT p.id FROM outbox_parked AS p
                  WHERE p.shard = :shard AND p.state = 'parked' AND p.id < w.id
                    AND p.interaction_id = (SELECT r.interaction_id FROM outbox AS r WHERE r.id = w.id)
                  LIMIT 1
              ) IS NULL
          )
          AND EXISTS (
              SELECT 1 FROM outbox_shard
              WHERE shard = :shard AND owner = :owner AND epoch = :epoch
                AND acknowledged_sequence = :acknowledged_sequence
          )
        ORDER BY w.shard, w.id LIMIT :limit
    ) AS w
    JOIN outbox AS o ON o.id = w.id
    ORDER BY w.id
    """,
    sqlite="""
    SELECT o.id, o.nonce, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at, o.enriched_at, o.topic
    FROM (
        SELECT w.id FROM outbox_pending AS w
        WHERE w.shard = :shard
          AND (
              NOT EXISTS (SELECT 1 FROM outbox_parked WHERE shard = :shard AND state = 'parked')
              OR (
                  SELECT p.id FROM outbox_parked AS p
                  WHERE p.shard = :shard AND p.state = 'parked' AND p.id < w.id
                    AND p.interaction_id = (SELECT r.interaction_id FROM outbox AS r WHERE r.id = w.id)
                  LIMIT 1
              ) IS NULL
          )
          AND EXISTS (
              SELECT 1 FROM outbox_shard
              WHERE shard = :shard AND owner = :owner AND epoch = :epoch
                AND acknowledged_sequence = :acknowledged_sequence
          )
        ORDER BY w.id LIMIT :limit
    ) AS w
    JOIN outbox AS o ON o.id = w.id
    ORDER BY w.id
    """,
)
"""The same without rows behind a parked row of their interaction. Whether the shard has parked rows at all is checked
once, and the check for each row runs only if it has. It compares the result of a subquery, since PostgreSQL may turn
``NOT EXISTS`` into a table of all rows behind parked ones, which can read through history."""

# A shard's progress --------------------------------------------------------------------------------

READ_SHARD = statement("""
    SELECT owner, epoch, acknowledged_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard
""")
"""The lease of a shard, and its last acknowledged progress record."""
LOCK_SHARD = statement(
    postgresql="""
    SELECT owner, epoch, acknowledged_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard FOR UPDATE
    """,
    sqlite="""
    SELECT owner, epoch, acknowledged_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard
    """,
)
"""The same, locked; on SQLite ``BEGIN IMMEDIATE`` has locked the database."""

ACKNOWLEDGE = statement("""
    UPDATE outbox_shard
    SET acknowledged_sequence = :sequence, progress_offset = :offset, progress_digest = :digest
    WHERE shard = :shard
""")
"""Stores the progress record of the last Kafka transaction whose rows are marked. Needs the shard's lock."""

FORGET_PROGRESS_RECORD = statement("""
    UPDATE outbox_shard SET progress_offset = NULL, progress_digest = NULL WHERE shard = :shard
""")
"""Keeps the acknowledged sequence without its record, which Kafka has lost."""

# Marking -------------------------------------------------------------------------------------------

ACKNOWLEDGE_AND_MARK = move(
    postgresql="""
    WITH acknowledged AS (
        UPDATE outbox_shard
        SET acknowledged_sequence = :sequence, progress_offset = :offset, progress_digest = :digest
        WHERE shard = :shard AND owner = :owner AND epoch = :epoch AND acknowledged_sequence = :sequence - 1
          AND (progress_offset IS NULL OR progress_offset < :offset)
        RETURNING shard
    ),
    moved AS (
        DELETE FROM outbox_pending
        WHERE shard = (SELECT shard FROM acknowledged) AND id BETWEEN :first_id AND :last_id
          AND nonce = ANY(CAST(:nonces AS bigint[]))
        RETURNING id
    ),
    calls AS (
        INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
        SELECT o.id, o.interaction_id,
               CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
               + CASE WHEN o.id = min(o.id) OVER (PARTITION BY o.interaction_id) THEN 0 ELSE :blocked_delay_ms END
        FROM moved AS m JOIN outbox AS o ON o.id = m.id
        WHERE CAST(:inference AS boolean)
        ON CONFLICT (row_id) DO NOTHING
    )
    INSERT INTO outbox_sent (id, shard, sequence, sent_at)
    SELECT id, :shard, :sequence, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) FROM moved
    """,
    sqlite=[
        """
    INSERT INTO outbox_sent (id, shard, sequence, sent_at)
    SELECT id, :shard, :sequence, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) FROM outbox_pending
    WHERE shard = :shard AND id BETWEEN :first_id AND :last_id AND nonce IN (SELECT value FROM json_each(:nonces))
      AND EXISTS (
          SELECT 1 FROM outbox_shard
          WHERE shard = :shard AND owner = :owner AND epoch = :epoch AND acknowledged_sequence = :sequence - 1
            AND (progress_offset IS NULL OR progress_offset < :offset)
      )
    """,
        """
    DELETE FROM outbox_pending
    WHERE shard = :shard AND id BETWEEN :first_id AND :last_id AND EXISTS (
        SELECT 1 FROM outbox_sent AS s WHERE s.id = outbox_pending.id
    )
    """,
        """
    UPDATE outbox_shard
    SET acknowledged_sequence = :sequence, progress_offset = :offset, progress_digest = :digest
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch AND acknowledged_sequence = :sequence - 1
      AND (progress_offset IS NULL OR progress_offset < :offset)
    """,
    ],
)
"""Marks the pending rows of a transaction sent and acknowledges its progress record, if the lease is the caller's and
the record is the next. On PostgreSQL it adds the inference calls, too, so that one statement is all that a cycle
writes; on SQLite ``ADD_CALLS`` follows. One scan of the shard's pending rows looks each row's nonce up among those of
the transaction."""

MARK_SENT = move(
    postgresql="""
    WITH named AS (
        SELECT o.id, o.nonce, mod(o.interaction_hash, i.shards) AS shard
        FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[])) AS r(id, nonce)
        JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
        CROSS JOIN outbox_identity AS i
    ),
    pending AS (
        DELETE FROM outbox_pending AS w USING named AS n
        WHERE w.shard = n.shard AND w.id = n.id AND w.nonce = n.nonce
        RETURNING w.id
    ),
    parked AS (
        DELETE FROM outbox_parked AS p USING named AS n WHERE p.id = n.id AND p.nonce = n.nonce
        RETURNING p.id
    )
    INSERT INTO outbox_sent (id, shard, sequence, sent_at)
    SELECT id, :shard, :sequence, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM (SELECT id FROM pending UNION ALL SELECT id FROM parked) AS moved
    """,
    sqlite=[
        """
    INSERT INTO outbox_sent (id, shard, sequence, sent_at)
    SELECT o.id, :shard, :sequence, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce FROM json_each(:rows)) AS r
    JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
    CROSS JOIN outbox_identity AS i
    WHERE EXISTS (SELECT 1 FROM outbox_pending WHERE shard = o.interaction_hash % i.shards AND id = o.id)
       OR EXISTS (SELECT 1 FROM outbox_parked WHERE id = o.id)
    """,
        """
    DELETE FROM outbox_pending
    WHERE (shard, id) IN (
        SELECT o.interaction_hash % i.shards, s.id
        FROM json_each(:rows) AS r
        JOIN outbox_sent AS s ON s.id = r.value ->> 0
        JOIN outbox AS o ON o.id = s.id
        CROSS JOIN outbox_identity AS i
    )
    """,
        """
    DELETE FROM outbox_parked
    WHERE id IN (SELECT s.id FROM json_each(:rows) AS r JOIN outbox_sent AS s ON s.id = r.value ->> 0)
    """,
    ],
)
"""Marks rows sent that are not sent yet: pending, parked or discarded, in whichever shard they are. Needs the lock of
the shard."""

PARK = move(
    postgresql="""
    WITH moved AS (
        DELETE FROM outbox_pending AS w
        USING unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:error AS text[])) AS r(id, nonce, error)
        WHERE w.shard = :shard AND w.id = r.id AND w.nonce = r.nonce
        RETURNING w.id, w.nonce, r.error
    )
    INSERT INTO outbox_parked (id, nonce, shard, interaction_id, state, error, changed_at)
    SELECT m.id, m.nonce, :shard, o.interaction_id, 'parked', m.error,
           CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM moved AS m JOIN outbox AS o ON o.id = m.id
    """,
    sqlite=[
        """
    INSERT INTO outbox_parked (id, nonce, shard, interaction_id, state, error, changed_at)
    SELECT w.id, w.nonce, w.shard, o.interaction_id, 'parked', r.error,
           CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS error FROM json_each(:rows)) AS r
    CROSS JOIN outbox_pending AS w ON w.shard = :shard AND w.id = r.id AND w.nonce = r.nonce
    JOIN outbox AS o ON o.id = w.id
    """,
        """
    DELETE FROM outbox_pending
    WHERE shard = :shard AND id IN (
        SELECT p.id FROM json_each(:rows) AS r JOIN outbox_parked AS p ON p.id = r.value ->> 0
    )
    """,
    ],
)
"""Parks pending rows of a shard. ``CROSS JOIN`` makes SQLite begin with the rows to park, not with all pending ones."""

# Enriching -----------------------------------------------------------------------------------------

STORE_ENRICHMENT = statement(
    postgresql="""
    UPDATE outbox AS o
    SET customer_email = COALESCE(o.customer_email, r.email), agent_id = COALESCE(o.agent_id, r.agent),
        enriched_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:email AS text[]), CAST(:agent AS text[]))
         AS r(id, nonce, email, agent), outbox_identity AS i
    WHERE o.id = r.id AND o.nonce = r.nonce AND o.enriched_at IS NULL
      AND EXISTS (SELECT 1 FROM outbox_pending WHERE shard = mod(o.interaction_hash, i.shards) AND id = o.id)
    RETURNING o.id, o.customer_email, o.agent_id, o.enriched_at
    """,
    sqlite="""
    UPDATE outbox
    SET customer_email = COALESCE(customer_email, r.email), agent_id = COALESCE(agent_id, r.agent),
        enriched_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS email, value ->> 3 AS agent
          FROM json_each(:rows)) AS r, outbox_identity AS i
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND enriched_at IS NULL
      AND EXISTS (SELECT 1 FROM outbox_pending WHERE shard = outbox.interaction_hash % i.shards AND id = outbox.id)
    RETURNING outbox.id, customer_email, agent_id, enriched_at
    """,
)
"""Fills in what CXone returned, once for each row. A value that the row has is never replaced, and a value that was
erased never comes back."""

# Identity, schema, clock ---------------------------------------------------------------------------

IDENTITY = statement("""
    SELECT outbox_id, shards, topic, progress_topic, transactional_id_prefix, cluster_id FROM outbox_identity
""")
"""Which outbox this is, and what it is used with."""
BIND_IDENTITY = statement("""
    UPDATE outbox_identity
    SET topic = :topic, progress_topic = :progress_topic,
        transactional_id_prefix = :transactional_id_prefix, cluster_id = :cluster_id
    WHERE topic IS NULL AND outbox_id = :outbox_id
""")
"""Stores what the outbox is used with, at its first use."""

NOW = statement(
    postgresql="SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    sqlite="SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
)
"""The database's clock."""
REVISION = statement("SELECT version_num FROM alembic_version")
"""The revision of the schema."""
LOCK_IDENTITY = statement("SELECT id FROM outbox_identity FOR KEY SHARE")
"""Waits until the synchronous standby has all that is visible, as the lock is written to the log. PostgreSQL only."""
TOUCH_IDENTITY = statement("UPDATE outbox_identity SET id = id")
"""Writes without a change, to show that writes go through."""
INSERT_NOTHING = statement("INSERT INTO outbox (key) SELECT NULL WHERE 1 = 0")
"""Stores no row, but needs the same table lock and the same right as an insert."""
