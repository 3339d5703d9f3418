"""The SQL that compares the outbox with its topics, and stores the verdict."""

from outbox.sql.statement import statement

ROWS = statement("""
    SELECT o.id, o.interaction_id, o.received_at, o.topic, s.sent_at
    FROM outbox AS o
    LEFT JOIN outbox_sent AS s ON s.id = o.id AND s.id > :after AND s.id <= :last
    WHERE o.id > :after AND o.id <= :last AND o.received_at >= :since AND o.received_at < :until
""")
"""The rows of a range of ids that were received in a range of time, with what identifies their records. The ids are
repeated in the condition of the join: PostgreSQL would otherwise read all sent rows."""

VALUES_BY_ID = statement(
    postgresql="""
    SELECT id, 0 AS nonce, interaction_id, channel, timestamp_ms, customer_email, agent_id, traceparent, replay_of,
           received_at
    FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))
    """,
    sqlite="""
    SELECT id, 0 AS nonce, interaction_id, channel, timestamp_ms, customer_email, agent_id, traceparent, replay_of,
           received_at
    FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))
    """,
)
"""These rows with everything that their records contain."""
BY_ID = statement(
    postgresql="""
    SELECT id, interaction_id, received_at, topic FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))
    """,
    sqlite="""
    SELECT id, interaction_id, received_at, topic FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))
    """,
)
"""What identifies the records of these rows."""
STATES = statement(
    postgresql="""
    SELECT id, state, sent_at FROM outbox_rows WHERE id = ANY(CAST(:ids AS bigint[]))
    """,
    sqlite="""
    SELECT id, state, sent_at FROM outbox_rows WHERE id IN (SELECT value FROM json_each(:ids))
    """,
)
"""The present state of these rows."""
SENT = statement(
    postgresql="""
    SELECT o.id, o.received_at, s.shard, s.sequence FROM outbox AS o
    LEFT JOIN outbox_sent AS s ON s.id = o.id AND s.id = ANY(CAST(:ids AS bigint[]))
    WHERE o.id = ANY(CAST(:ids AS bigint[]))
    """,
    sqlite="""
    SELECT o.id, o.received_at, s.shard, s.sequence FROM outbox AS o LEFT JOIN outbox_sent AS s ON s.id = o.id
    WHERE o.id IN (SELECT value FROM json_each(:ids))
    """,
)
"""The transactions that sent these rows, if they did. The ids are repeated: PostgreSQL would otherwise read all sent
rows."""
RECEIVED_BEFORE = statement(
    postgresql="""
    SELECT id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[])) AND received_at < :moment_ms
    """,
    sqlite="""
    SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids)) AND received_at < :moment_ms
    """,
)
"""Those of these rows that were received before a time."""
ERASED = statement(
    postgresql="""
    SELECT id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[])) AND length(payload) = 0
    """,
    sqlite="""
    SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids)) AND length(payload) = 0
    """,
)
"""Those of these rows whose personal data was erased."""
SAME_INTERACTION = statement(
    postgresql="""
    SELECT o.interaction_id, o.id
    FROM (SELECT DISTINCT interaction_id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))) AS r
    JOIN outbox AS o ON o.interaction_id = r.interaction_id AND o.id + 0 BETWEEN :first AND :last
    WHERE coalesce(o.topic, CAST(:configured AS text)) = CAST(:topic AS text)
    """,
    sqlite="""
    SELECT o.interaction_id, o.id
    FROM (SELECT DISTINCT interaction_id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))) AS r
    CROSS JOIN outbox AS o ON o.interaction_id = r.interaction_id AND o.id + 0 BETWEEN :first AND :last
    WHERE coalesce(o.topic, :configured) = :topic
    """,
)
"""The rows in a range of ids and in a topic that are of the interactions of some rows, by the index of interactions."""
AUDITED = statement(
    postgresql="""
    SELECT r.row_id AS id, a.verb FROM outbox_audit_row AS r JOIN outbox_audit AS a ON a.id = r.entry_id
    WHERE r.row_id = ANY(CAST(:ids AS bigint[]))
    """,
    sqlite="""
    SELECT r.row_id AS id, a.verb FROM outbox_audit_row AS r CROSS JOIN outbox_audit AS a ON a.id = r.entry_id
    WHERE r.row_id IN (SELECT value FROM json_each(:ids))
    """,
)
"""What operators did to these rows."""

STORE_VERDICT = statement("""
    INSERT INTO outbox_verification (id, at, since, until, with_values, compared, faults)
    VALUES (1, :at_ms, :since_ms, :until_ms, :values, :rows, :faults)
    ON CONFLICT (id) DO UPDATE
    SET at = excluded.at, since = excluded.since, until = excluded.until, with_values = excluded.with_values,
        compared = excluded.compared, faults = excluded.faults
""")
"""Replaces the last verdict."""
LAST_VERDICT = statement("SELECT at, since, until, with_values, compared, faults FROM outbox_verification")
"""The last verdict, if there is one."""
