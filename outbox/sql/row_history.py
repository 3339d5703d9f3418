"""The SQL that reads everything about one row."""

from outbox.sql.statement import statement

ROW = statement("""
    SELECT id, shard, state, interaction_id, channel, timestamp_ms, traceparent, replay_of, error, received_at, sent_at,
           sequence, enriched_at, topic, has_customer, has_agent, payload_bytes
    FROM outbox_rows WHERE id = :id
""")
"""A row without personal data."""
PERSONAL_VALUES = statement("SELECT customer_email, agent_id FROM outbox WHERE id = :id")
"""A row's customer and agent."""
CONTENT = statement("SELECT customer_email, agent_id, payload FROM outbox WHERE id = :id")
"""A row's customer, agent and payload."""
CALL = statement("""
    SELECT state, attempts, status, error, latency_ms, due_at, claimed_by FROM outbox_inference_call WHERE row_id = :id
""")
"""A row's inference call."""
FIRST_PARKED_BEFORE = statement("""
    SELECT id FROM outbox_parked
    WHERE shard = :shard AND state = 'parked' AND interaction_id = :interaction_id AND id < :id ORDER BY id LIMIT 1
""")
"""The first parked row of the interaction before a row."""
COUNT_PENDING_BEHIND = statement("""
    SELECT count((SELECT w.id FROM outbox_pending AS w WHERE w.shard = :shard AND w.id = o.id))
    FROM outbox AS o WHERE o.interaction_id = :interaction_id AND o.id + 0 > :id
""")
"""Counts the pending rows of the interaction behind a row."""
COUNT_PENDING_BEFORE = statement("SELECT count(*) FROM outbox_pending WHERE shard = :shard AND id < :id")
"""Counts the pending rows of the shard before a row."""
ORIGINALS = statement("""
    WITH RECURSIVE up(id) AS (
        SELECT replay_of FROM outbox WHERE id = :id
        UNION SELECT o.replay_of FROM up CROSS JOIN outbox AS o WHERE o.id = up.id
    )
    SELECT up.id, (SELECT o.replay_of FROM outbox AS o WHERE o.id = up.id),
           (SELECT o.state FROM outbox_rows AS o WHERE o.id = up.id) AS state
    FROM up WHERE up.id IS NOT NULL ORDER BY up.id
""")
"""The rows that a row is a replay of, directly or through other replays. ``CROSS JOIN`` keeps SQLite, which has no
statistics, from reading all rows; so do the subqueries, as it would build the whole view for an outer join."""
REPLAYS = statement("""
    WITH RECURSIVE down(id) AS (
        SELECT id FROM outbox WHERE replay_of = :id
        UNION SELECT o.id FROM outbox AS o JOIN down ON o.replay_of = down.id
    )
    SELECT o.id, o.replay_of, o.state FROM down CROSS JOIN outbox_rows AS o WHERE o.id = down.id ORDER BY o.id
""")
"""The replays of a row, and theirs. ``CROSS JOIN`` as above."""
