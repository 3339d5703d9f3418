"""The SQL that brings the outbox in line with the topic after the database or Kafka went back in time."""

from outbox.sql.statement import move, statement

MATCH_RECORDS = statement(
    postgresql="""
    SELECT o.id, o.nonce, o.shard, o.state, o.interaction_id, o.received_at
    FROM unnest(CAST(:outbox_id AS bigint[]), CAST(:interaction_id AS text[]), CAST(:received_at_ms AS bigint[]))
         AS r(id, interaction_id, received_at)
    JOIN outbox_rows AS o ON o.id = r.id AND o.interaction_id = r.interaction_id AND o.received_at = r.received_at
    """,
    sqlite="""
    SELECT o.id, o.nonce, o.shard, o.state, o.interaction_id, o.received_at
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS interaction_id, value ->> 2 AS received_at
          FROM json_each(:rows)) AS r
    JOIN outbox_rows AS o ON o.id = r.id AND o.interaction_id = r.interaction_id AND o.received_at = r.received_at
    """,
)
"""Finds the rows of these records. The id alone would not do: a restored database assigns ids again."""

UNSENT_BEFORE = statement("""
    SELECT count(*) FROM (SELECT id FROM outbox_pending UNION ALL SELECT id FROM outbox_parked) AS u
    WHERE (SELECT received_at FROM outbox WHERE id = u.id) < :moment_ms
""")
"""Counts the rows that are not sent and were received before a time."""

ADVANCE_SEQUENCE = statement("""
    UPDATE outbox_shard
    SET acknowledged_sequence = :sequence, progress_offset = :offset, progress_digest = :digest, condition = NULL
    WHERE shard = :shard
""")
"""Acknowledges everything up to this progress record, and clears the condition that waited for an operator."""

SENT_ABOVE = statement("""
    SELECT o.id, o.nonce, o.received_at, o.topic
    FROM outbox_sent AS s JOIN outbox AS o ON o.id = s.id
    WHERE s.shard = :shard AND s.sequence > :sequence AND s.id > :after ORDER BY s.id LIMIT :limit
""")
"""Reads through all of history, for the rare case that Kafka went back in time."""

SEND_AGAIN = move(
    postgresql="""
    WITH moved AS (
        DELETE FROM outbox_sent AS s
        USING unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[])) AS r(id, nonce)
        JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
        WHERE s.id = o.id
        RETURNING o.id, o.nonce, o.interaction_hash
    )
    INSERT INTO outbox_pending (shard, id, nonce)
    SELECT mod(m.interaction_hash, i.shards), m.id, m.nonce FROM moved AS m, outbox_identity AS i
    """,
    sqlite=[
        """
    INSERT INTO outbox_pending (shard, id, nonce)
    SELECT o.interaction_hash % i.shards, o.id, o.nonce
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce FROM json_each(:rows)) AS r
    JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
    JOIN outbox_sent AS s ON s.id = o.id
    CROSS JOIN outbox_identity AS i
    """,
        """
    DELETE FROM outbox_sent WHERE id IN (
        SELECT o.id FROM json_each(:rows) AS r
        JOIN outbox AS o ON o.id = r.value ->> 0 AND o.nonce = r.value ->> 1
    )
    """,
    ],
)
"""Makes sent rows pending again that Kafka has lost."""
