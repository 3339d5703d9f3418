"""The SQL of ``Store``: selecting, marking, parking and enriching rows, and the identity of the outbox.

Ids are assigned before commits, so a row may appear below ids that were already sent: rows are found by their state,
never by the last id seen.
"""

from outbox.sql.statement import statement

# Selecting -----------------------------------------------------------------------------------------

SELECT_PENDING = statement("""
    SELECT o.id, o.nonce, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at, o.enriched_at, o.topic
    FROM outbox AS o
    WHERE o.shard = :shard AND o.state = 'pending'
      AND EXISTS (
          SELECT 1 FROM outbox_shard
          WHERE shard = :shard AND owner = :owner AND epoch = :epoch AND acknowledged_sequence = :acknowledged_sequence
      )
    ORDER BY o.id LIMIT :limit
""")
"""Pending rows of a shard, in one snapshot with the lease: empty if lease or acknowledged sequence are no longer the
caller's."""

SELECT_PENDING_UNBLOCKED = statement("""
    SELECT o.id, o.nonce, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at, o.enriched_at, o.topic
    FROM outbox AS o
    WHERE o.shard = :shard AND o.state = 'pending'
      AND (
          NOT EXISTS (SELECT 1 FROM outbox WHERE shard = :shard AND state = 'parked')
          OR NOT EXISTS (
              SELECT 1 FROM outbox AS p
              WHERE p.shard = :shard AND p.state = 'parked' AND p.interaction_id = o.interaction_id AND p.id < o.id
          )
      )
      AND EXISTS (
          SELECT 1 FROM outbox_shard
          WHERE shard = :shard AND owner = :owner AND epoch = :epoch
            AND acknowledged_sequence = :acknowledged_sequence
      )
    ORDER BY o.id LIMIT :limit
""")
"""The same without rows behind a parked row of their interaction. Whether the shard has parked rows at all is checked
once, and the check for each row runs only if it has."""

# A shard's progress --------------------------------------------------------------------------------

READ_SHARD = statement("""
    SELECT owner, epoch, acknowledged_sequence, progress_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard
""")
"""The lease of a shard, and its last acknowledged progress record."""
LOCK_SHARD = statement(
    postgresql="""
    SELECT owner, epoch, acknowledged_sequence, progress_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard FOR UPDATE
    """,
    sqlite="""
    SELECT owner, epoch, acknowledged_sequence, progress_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard
    """,
)
"""The same, locked; on SQLite ``BEGIN IMMEDIATE`` has locked the database."""

ACKNOWLEDGE = statement("""
    UPDATE outbox_shard
    SET acknowledged_sequence = :sequence, progress_sequence = :sequence,
        progress_offset = :offset, progress_digest = :digest
    WHERE shard = :shard
""")
"""Stores the progress record of the last Kafka transaction whose rows are marked. Needs the shard's lock."""

FORGET_PROGRESS_RECORD = statement("""
    UPDATE outbox_shard SET progress_sequence = NULL, progress_offset = NULL, progress_digest = NULL
    WHERE shard = :shard
""")
"""Keeps the acknowledged sequence without its record, which Kafka has lost."""

# Marking -------------------------------------------------------------------------------------------

MARK_PENDING_SENT = statement(
    postgresql="""
    UPDATE outbox
    SET state = 'sent', sent_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint), sequence = :sequence,
        error = NULL
    WHERE shard = :shard AND state = 'pending' AND id BETWEEN :first_id AND :last_id
      AND nonce = ANY(CAST(:nonces AS bigint[]))
    """,
    sqlite="""
    UPDATE outbox
    SET state = 'sent', sent_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), sequence = :sequence,
        error = NULL
    WHERE shard = :shard AND state = 'pending' AND id BETWEEN :first_id AND :last_id
      AND nonce IN (SELECT value FROM json_each(:nonces))
    """,
)
"""Marks pending rows of a transaction sent, at half the cost of ``MARK_SENT``: one scan of the index of pending rows,
which looks each row's nonce up among those of the transaction."""

MARK_SENT = statement(
    postgresql="""
    UPDATE outbox AS o
    SET state = 'sent', sent_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint), sequence = :sequence,
        error = NULL
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[])) AS r(id, nonce)
    WHERE o.id = r.id AND o.nonce = r.nonce AND o.state IN ('pending', 'parked', 'discarded')
    """,
    sqlite="""
    UPDATE outbox
    SET state = 'sent', sent_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), sequence = :sequence,
        error = NULL
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce FROM json_each(:rows)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND outbox.state IN ('pending', 'parked', 'discarded')
    """,
)
"""Marks rows sent that are not sent yet: pending, parked or discarded."""

PARK = statement(
    postgresql="""
    UPDATE outbox
    SET state = 'parked', error = :error, changed_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    WHERE id = :id AND nonce = :nonce AND shard = :shard AND state = 'pending'
    """,
    sqlite="""
    UPDATE outbox
    SET state = 'parked', error = :error, changed_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    WHERE id = :id AND nonce = :nonce AND shard = :shard AND state = 'pending'
    """,
)
"""Parks a pending row."""

# Enriching -----------------------------------------------------------------------------------------

STORE_ENRICHMENT = statement(
    postgresql="""
    UPDATE outbox
    SET customer_email = COALESCE(customer_email, r.email), agent_id = COALESCE(agent_id, r.agent),
        enriched_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:email AS text[]), CAST(:agent AS text[]))
         AS r(id, nonce, email, agent)
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND outbox.state = 'pending' AND enriched_at IS NULL
    RETURNING outbox.id, customer_email, agent_id, enriched_at
    """,
    sqlite="""
    UPDATE outbox
    SET customer_email = COALESCE(customer_email, r.email), agent_id = COALESCE(agent_id, r.agent),
        enriched_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS email, value ->> 3 AS agent
          FROM json_each(:rows)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND outbox.state = 'pending' AND enriched_at IS NULL
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
TOUCH_IDENTITY = statement("UPDATE outbox_identity SET id = id")
"""Writes without a change, to show that writes go through."""
INSERT_NOTHING = statement("INSERT INTO outbox (key) SELECT NULL WHERE 1 = 0")
"""Stores no row, but needs the same table lock and the same right as an insert."""
