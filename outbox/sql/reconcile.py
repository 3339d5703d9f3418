"""The SQL that brings the outbox in line with the topic after the database or Kafka went back in time."""

from outbox.sql.statement import statement

MATCH_RECORDS = statement(
    postgresql="""
    SELECT o.id, o.nonce, o.shard, o.state, o.interaction_id, o.received_at
    FROM unnest(CAST(:outbox_id AS bigint[]), CAST(:interaction_id AS text[]), CAST(:received_at_ms AS bigint[]))
         AS r(id, interaction_id, received_at)
    JOIN outbox AS o ON o.id = r.id AND o.interaction_id = r.interaction_id AND o.received_at = r.received_at
    """,
    sqlite="""
    SELECT o.id, o.nonce, o.shard, o.state, o.interaction_id, o.received_at
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS interaction_id, value ->> 2 AS received_at
          FROM json_each(:rows)) AS r
    JOIN outbox AS o ON o.id = r.id AND o.interaction_id = r.interaction_id AND o.received_at = r.received_at
    """,
)
"""Finds the rows of these records. The id alone would not do: a restored database assigns ids again."""

UNSENT_BEFORE = statement("""
    SELECT count(*) FROM (
        SELECT id FROM outbox WHERE state = 'pending' AND received_at < :moment_ms
        UNION ALL
        SELECT id FROM outbox WHERE state = 'parked' AND received_at < :moment_ms
        UNION ALL
        SELECT id FROM outbox WHERE state = 'discarded' AND received_at < :moment_ms
    ) AS unsent
""")
"""One branch for each state, so that the partial indexes serve."""

ADVANCE_SEQUENCE = statement("""
    UPDATE outbox_shard
    SET acknowledged_sequence = :sequence, progress_sequence = :sequence,
        progress_offset = :offset, progress_digest = :digest,
        condition = NULL
    WHERE shard = :shard
""")
"""Acknowledges everything up to this progress record, and clears the condition that waited for an operator."""

SENT_ABOVE = statement("""
    SELECT id, nonce, received_at, topic FROM outbox
    WHERE shard = :shard AND state = 'sent' AND sequence > :sequence AND id > :after ORDER BY id LIMIT :limit
""")
"""Reads through all of history, for the rare case that Kafka went back in time."""

SEND_AGAIN = statement(
    postgresql="""
    UPDATE outbox AS o
    SET state = 'pending', sent_at = NULL, sequence = NULL,
        changed_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[])) AS r(id, nonce)
    WHERE o.id = r.id AND o.nonce = r.nonce AND o.state = 'sent'
    """,
    sqlite="""
    UPDATE outbox
    SET state = 'pending', sent_at = NULL, sequence = NULL,
        changed_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce FROM json_each(:rows)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND outbox.state = 'sent'
    """,
)
"""Makes sent rows pending again that Kafka has lost."""
