"""The SQL that reads everything about one row."""

from outbox.sql.statement import statement

ROW = statement("""
    SELECT r.id, r.shard, r.state, r.interaction_id, r.channel, r.timestamp_ms, o.customer_email, o.agent_id,
           r.traceparent, r.replay_of, r.error, r.received_at, r.sent_at, r.sequence, r.enriched_at, r.topic,
           length(o.payload) AS payload_bytes
    FROM outbox_rows AS r JOIN outbox AS o ON o.id = r.id WHERE r.id = :id
""")
"""A row with everything but its payload."""
PAYLOAD = statement("SELECT payload FROM outbox WHERE id = :id")
"""A row's payload."""
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
        UNION SELECT o.replay_of FROM outbox AS o JOIN up ON o.id = up.id
    )
    SELECT up.id, o.replay_of, o.state FROM up LEFT JOIN outbox_rows AS o ON o.id = up.id
    WHERE up.id IS NOT NULL ORDER BY up.id
""")
"""The rows that a row is a replay of, directly or through other replays."""
REPLAYS = statement("""
    WITH RECURSIVE down(id) AS (
        SELECT id FROM outbox WHERE replay_of = :id
        UNION SELECT o.id FROM outbox AS o JOIN down ON o.replay_of = down.id
    )
    SELECT o.id, o.replay_of, o.state FROM down JOIN outbox_rows AS o ON o.id = down.id ORDER BY o.id
""")
"""The replays of a row, and theirs."""
