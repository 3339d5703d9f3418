"""The SQL of inference calls.

Two partial indexes hold the calls that are due: by time and by interaction. A claim reads the earliest calls by time
and takes those that are the first of their interaction. A call that is blocked by an earlier one of its interaction is
deferred, so that no claim reads it again; when the earlier call ends, the blocked one becomes due. So the cost of a
claim follows what it takes, not what waits. Calls have no shard: any relay claims any of them.
"""

from outbox.sql.statement import statement

BLOCKED_DELAY_MS = 3_600_000
"""By how much a blocked call is deferred. Normally the end of the earlier call makes it due; the delay covers an end
that did not, as after a restore."""

# Adding --------------------------------------------------------------------------------------------

ADD_CALLS = statement(
    postgresql="""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT o.id, o.interaction_id,
           CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
           + CASE WHEN o.id = min(o.id) OVER (PARTITION BY o.interaction_id) THEN 0 ELSE :blocked_delay_ms END
    FROM outbox_sent AS s JOIN outbox AS o ON o.id = s.id
    WHERE s.id = ANY(CAST(:ids AS bigint[])) AND s.shard = :shard AND s.sequence = :sequence
    ON CONFLICT (row_id) DO NOTHING
    """,
    sqlite="""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT o.id, o.interaction_id,
           CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
           + CASE WHEN o.id = min(o.id) OVER (PARTITION BY o.interaction_id) THEN 0 ELSE :blocked_delay_ms END
    FROM outbox_sent AS s JOIN outbox AS o ON o.id = s.id
    WHERE s.id IN (SELECT value FROM json_each(:ids)) AND s.shard = :shard AND s.sequence = :sequence
    ON CONFLICT (row_id) DO NOTHING
    """,
)
"""Adds a call for each row just marked, in the transaction that marks them, so that no call is ever missing. Rows are
found by their ids and recognized by their sequence: all of history may lie between the first and the last."""

# Claiming ------------------------------------------------------------------------------------------

ANY_DUE = statement(
    postgresql="""
    SELECT 1 FROM outbox_inference_call
    WHERE state = 'due' AND due_at <= (SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    ORDER BY due_at LIMIT 1
    """,
    sqlite="""
    SELECT 1 FROM outbox_inference_call
    WHERE state = 'due' AND due_at <= (SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    ORDER BY due_at LIMIT 1
    """,
)
"""Ordered, so that the index by time is scanned, never the table."""

NOW_FORCING_INDEX_SCANS = statement(
    postgresql="""
    SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint),
           set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true)
    """,
    sqlite="SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
)
"""The database's clock. For the rest of the transaction PostgreSQL scans the index by time instead of sorting all calls
that are due, whatever its statistics say."""

CLAIM_FIRST_DUE = statement(
    postgresql="""
    UPDATE outbox_inference_call SET claimed_by = :owner, due_at = :until
    WHERE row_id = ANY(ARRAY(
        SELECT c.row_id
        FROM (
            SELECT row_id FROM outbox_inference_call
            WHERE state = 'due' AND due_at <= :now ORDER BY due_at LIMIT :window
        ) AS w
        JOIN outbox_inference_call AS c ON c.row_id = w.row_id
        WHERE CASE WHEN c.state = 'due' THEN c.due_at END <= :now
          AND c.row_id = (
              SELECT e.row_id FROM outbox_inference_call AS e
              WHERE e.state = 'due' AND e.interaction_id = c.interaction_id ORDER BY e.row_id LIMIT 1
          )
        LIMIT :limit FOR UPDATE OF c SKIP LOCKED
    ))
    RETURNING row_id, interaction_id
    """,
    sqlite="""
    UPDATE outbox_inference_call SET claimed_by = :owner, due_at = :until
    WHERE row_id IN (
        SELECT c.row_id
        FROM (
            SELECT row_id FROM outbox_inference_call
            WHERE state = 'due' AND due_at <= :now ORDER BY due_at LIMIT :window
        ) AS w
        JOIN outbox_inference_call AS c ON c.row_id = w.row_id
        WHERE CASE WHEN c.state = 'due' THEN c.due_at END <= :now
          AND c.row_id = (
              SELECT e.row_id FROM outbox_inference_call AS e
              WHERE e.state = 'due' AND e.interaction_id = c.interaction_id ORDER BY e.row_id LIMIT 1
          )
        LIMIT :limit
    )
    RETURNING row_id, interaction_id
    """,
)
"""Claims the first due call of each interaction among the earliest calls. A claim that expires is due again by itself.

PostgreSQL chooses the calls once, as an array, whatever the plan. Under the lock the time is checked again. ``CASE``
hides the condition from the indexes. A plain condition lets PostgreSQL, if it underestimates the due calls, scan them
all instead of the window. The first call of an interaction is a scalar subquery, which is one index probe in every
plan."""

DEFER_BLOCKED = statement(
    postgresql="""
    UPDATE outbox_inference_call SET claimed_by = NULL, due_at = :now + :blocked_delay_ms
    WHERE row_id = ANY(ARRAY(
        SELECT c.row_id
        FROM (
            SELECT row_id FROM outbox_inference_call
            WHERE state = 'due' AND due_at <= :now ORDER BY due_at LIMIT :window
        ) AS w
        JOIN outbox_inference_call AS c ON c.row_id = w.row_id
        WHERE CASE WHEN c.state = 'due' THEN c.due_at END <= :now
          AND EXISTS (
              SELECT 1 FROM outbox_inference_call AS e
              WHERE e.state = 'due' AND e.interaction_id = c.interaction_id AND e.row_id < c.row_id
              ORDER BY e.row_id LIMIT 1 FOR SHARE SKIP LOCKED
          )
        FOR UPDATE OF c SKIP LOCKED
    ))
    """,
    sqlite="""
    UPDATE outbox_inference_call SET claimed_by = NULL, due_at = :now + :blocked_delay_ms
    WHERE row_id IN (
        SELECT c.row_id
        FROM (
            SELECT row_id FROM outbox_inference_call
            WHERE state = 'due' AND due_at <= :now ORDER BY due_at LIMIT :window
        ) AS w
        JOIN outbox_inference_call AS c ON c.row_id = w.row_id
        WHERE CASE WHEN c.state = 'due' THEN c.due_at END <= :now
          AND EXISTS (
              SELECT 1 FROM outbox_inference_call AS e
              WHERE e.state = 'due' AND e.interaction_id = c.interaction_id AND e.row_id < c.row_id
              ORDER BY e.row_id LIMIT 1
          )
    )
    """,
)
"""Defers the blocked calls among the earliest ones. It holds the earlier call's lock, so that call ends later and then
sees which one to wake. It never waits for a lock, so it has no part in a deadlock."""

FOLLOWERS = statement(
    postgresql="""
    SELECT n.*
    FROM unnest(CAST(:ids AS bigint[])) AS i(id)
    JOIN outbox_inference_call AS h ON h.row_id = i.id
    CROSS JOIN LATERAL (
        SELECT f.row_id, f.interaction_id, f.claimed_by IS NULL AS free FROM outbox_inference_call AS f
        WHERE f.state = 'due' AND f.interaction_id = h.interaction_id AND f.row_id > h.row_id
        ORDER BY f.row_id LIMIT :more
    ) AS n
    ORDER BY n.row_id
    """,
    sqlite="""
    SELECT f.row_id, f.interaction_id, f.claimed_by IS NULL AS free
    FROM json_each(:ids) AS i
    JOIN outbox_inference_call AS h ON h.row_id = i.value
    JOIN outbox_inference_call AS f ON f.row_id IN (
        SELECT n.row_id FROM outbox_inference_call AS n
        WHERE n.state = 'due' AND n.interaction_id = h.interaction_id AND n.row_id > h.row_id
        ORDER BY n.row_id LIMIT :more
    )
    ORDER BY f.row_id
    """,
)
"""The next calls in the interactions of claimed ones, and whether no worker has claimed them."""

CLAIM_FOLLOWERS = statement(
    postgresql="""
    UPDATE outbox_inference_call SET claimed_by = :owner, due_at = :until
    WHERE row_id = ANY(CAST(:ids AS bigint[])) AND state = 'due' AND claimed_by IS NULL
    RETURNING row_id
    """,
    sqlite="""
    UPDATE outbox_inference_call SET claimed_by = :owner, due_at = :until
    WHERE row_id IN (SELECT value FROM json_each(:ids)) AND state = 'due' AND claimed_by IS NULL
    RETURNING row_id
    """,
)
"""Claims calls that are still due and that no worker has claimed."""
CLAIMED_CALLS = statement(
    postgresql="""
    SELECT c.row_id, c.interaction_id, o.timestamp_ms, o.traceparent, c.attempts, c.due_at AS claimed_until_ms
    FROM outbox_inference_call AS c JOIN outbox AS o ON o.id = c.row_id
    WHERE c.row_id = ANY(CAST(:ids AS bigint[])) ORDER BY c.row_id
    """,
    sqlite="""
    SELECT c.row_id, c.interaction_id, o.timestamp_ms, o.traceparent, c.attempts, c.due_at AS claimed_until_ms
    FROM outbox_inference_call AS c JOIN outbox AS o ON o.id = c.row_id
    WHERE c.row_id IN (SELECT value FROM json_each(:ids)) ORDER BY c.row_id
    """,
)
"""What a worker needs to make the claimed calls."""

CLAIMANTS = statement("""
    SELECT DISTINCT claimed_by FROM outbox_inference_call
    WHERE state = 'due' AND due_at > :now AND due_at <= :until AND claimed_by IS NOT NULL
""")
"""The index by time finds the claims that have not expired: each one expires within the time of a claim."""
RELEASE_CLAIMS = statement("""
    UPDATE outbox_inference_call SET claimed_by = NULL, due_at = :now
    WHERE state = 'due' AND due_at > :now AND due_at <= :until AND claimed_by = :owner
""")
"""Makes an owner's claims that have not expired due now."""

# Recording results ---------------------------------------------------------------------------------

RECORD_FINISHED = statement(
    postgresql="""
    UPDATE outbox_inference_call
    SET state = r.state, attempts = r.attempts, status = r.status, error = r.error, latency_ms = r.latency_ms,
        claimed_by = NULL, due_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + r.wait_ms
    FROM unnest(
        CAST(:row_id AS bigint[]), CAST(:state AS text[]), CAST(:attempts AS integer[]), CAST(:status AS integer[]),
        CAST(:error AS text[]), CAST(:latency_ms AS integer[]), CAST(:wait_ms AS bigint[]),
        CAST(:claimed_until_ms AS bigint[])
    ) AS r(row_id, state, attempts, status, error, latency_ms, wait_ms, claimed_until_ms)
    WHERE outbox_inference_call.row_id = r.row_id AND outbox_inference_call.state = 'due'
    RETURNING outbox_inference_call.interaction_id
    """,
    sqlite="""
    UPDATE outbox_inference_call
    SET state = r.state, attempts = r.attempts, status = r.status, error = r.error, latency_ms = r.latency_ms,
        claimed_by = NULL, due_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + r.wait_ms
    FROM (
        SELECT value ->> 0 AS row_id, value ->> 1 AS state, value ->> 2 AS attempts, value ->> 3 AS status,
               value ->> 4 AS error, value ->> 5 AS latency_ms, value ->> 6 AS wait_ms, value ->> 7 AS claimed_until_ms
        FROM json_each(:rows)
    ) AS r
    WHERE outbox_inference_call.row_id = r.row_id AND outbox_inference_call.state = 'due'
    RETURNING outbox_inference_call.interaction_id
    """,
)
"""Records calls that are done or parked, even where the claim expired and another worker has claimed the call: the
answer is a fact."""

RECORD_RETRY = statement(
    postgresql="""
    UPDATE outbox_inference_call
    SET state = r.state, attempts = r.attempts, status = r.status, error = r.error, latency_ms = r.latency_ms,
        claimed_by = NULL, due_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + r.wait_ms
    FROM unnest(
        CAST(:row_id AS bigint[]), CAST(:state AS text[]), CAST(:attempts AS integer[]), CAST(:status AS integer[]),
        CAST(:error AS text[]), CAST(:latency_ms AS integer[]), CAST(:wait_ms AS bigint[]),
        CAST(:claimed_until_ms AS bigint[])
    ) AS r(row_id, state, attempts, status, error, latency_ms, wait_ms, claimed_until_ms)
    WHERE outbox_inference_call.row_id = r.row_id AND outbox_inference_call.state = 'due'
      AND outbox_inference_call.claimed_by = :owner AND outbox_inference_call.due_at = r.claimed_until_ms
    RETURNING outbox_inference_call.interaction_id
    """,
    sqlite="""
    UPDATE outbox_inference_call
    SET state = r.state, attempts = r.attempts, status = r.status, error = r.error, latency_ms = r.latency_ms,
        claimed_by = NULL, due_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + r.wait_ms
    FROM (
        SELECT value ->> 0 AS row_id, value ->> 1 AS state, value ->> 2 AS attempts, value ->> 3 AS status,
               value ->> 4 AS error, value ->> 5 AS latency_ms, value ->> 6 AS wait_ms, value ->> 7 AS claimed_until_ms
        FROM json_each(:rows)
    ) AS r
    WHERE outbox_inference_call.row_id = r.row_id AND outbox_inference_call.state = 'due'
      AND outbox_inference_call.claimed_by = :owner AND outbox_inference_call.due_at = r.claimed_until_ms
    RETURNING outbox_inference_call.interaction_id
    """,
)
"""Records failed calls that will be retried, where the caller still has the claim: owner and expiry identify it."""

GIVE_BACK = statement(
    postgresql="""
    UPDATE outbox_inference_call
    SET attempts = r.attempts, claimed_by = NULL,
        due_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + CASE
            WHEN (
                SELECT e.claimed_by FROM outbox_inference_call AS e
                WHERE e.state = 'due' AND e.interaction_id = outbox_inference_call.interaction_id
                ORDER BY e.row_id LIMIT 1
            ) IS NULL THEN r.wait_ms
            ELSE 0
        END
    FROM unnest(
        CAST(:row_id AS bigint[]), CAST(:state AS text[]), CAST(:attempts AS integer[]), CAST(:status AS integer[]),
        CAST(:error AS text[]), CAST(:latency_ms AS integer[]), CAST(:wait_ms AS bigint[]),
        CAST(:claimed_until_ms AS bigint[])
    ) AS r(row_id, state, attempts, status, error, latency_ms, wait_ms, claimed_until_ms)
    WHERE outbox_inference_call.row_id = r.row_id AND outbox_inference_call.state = 'due'
      AND outbox_inference_call.claimed_by = :owner AND outbox_inference_call.due_at = r.claimed_until_ms
    RETURNING outbox_inference_call.interaction_id
    """,
    sqlite="""
    UPDATE outbox_inference_call
    SET attempts = r.attempts, claimed_by = NULL,
        due_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + CASE
            WHEN (
                SELECT e.claimed_by FROM outbox_inference_call AS e
                WHERE e.state = 'due' AND e.interaction_id = outbox_inference_call.interaction_id
                ORDER BY e.row_id LIMIT 1
            ) IS NULL THEN r.wait_ms
            ELSE 0
        END
    FROM (
        SELECT value ->> 0 AS row_id, value ->> 1 AS state, value ->> 2 AS attempts, value ->> 3 AS status,
               value ->> 4 AS error, value ->> 5 AS latency_ms, value ->> 6 AS wait_ms, value ->> 7 AS claimed_until_ms
        FROM json_each(:rows)
    ) AS r
    WHERE outbox_inference_call.row_id = r.row_id AND outbox_inference_call.state = 'due'
      AND outbox_inference_call.claimed_by = :owner AND outbox_inference_call.due_at = r.claimed_until_ms
    RETURNING outbox_inference_call.interaction_id
    """,
)
"""Gives back untried calls. A call waits if the first due call of its interaction is unclaimed. Otherwise it is due
now: whoever finished or claimed that call may not wake it."""

WAKE_NEXT = statement(
    postgresql="""
    UPDATE outbox_inference_call
    SET due_at = (SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    WHERE row_id IN (
        SELECT (
            SELECT e.row_id FROM outbox_inference_call AS e
            WHERE e.state = 'due' AND e.interaction_id = i.value ORDER BY e.row_id LIMIT 1
        ) FROM unnest(CAST(:interactions AS text[])) AS i(value)
    )
      AND state = 'due' AND claimed_by IS NULL
      AND due_at > (SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint))
    """,
    sqlite="""
    UPDATE outbox_inference_call
    SET due_at = (SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    WHERE row_id IN (
        SELECT (
            SELECT e.row_id FROM outbox_inference_call AS e
            WHERE e.state = 'due' AND e.interaction_id = i.value ORDER BY e.row_id LIMIT 1
        ) FROM json_each(:interactions) AS i
    )
      AND state = 'due' AND claimed_by IS NULL
      AND due_at > (SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    """,
)
"""Makes the calls behind finished ones due, in the transaction of ``RECORD_FINISHED``."""

# Counting ------------------------------------------------------------------------------------------

OLDEST_DUE_AGE = statement("""
    SELECT :now - min((SELECT sent_at FROM outbox_sent WHERE id = w.row_id))
    FROM (SELECT row_id FROM outbox_inference_call WHERE state = 'due' ORDER BY due_at LIMIT :window) AS w
""")
"""The age, since its row was sent, of the oldest among the calls that are due next; while all due calls fit into the
window, of the oldest of all. So the cost is bounded."""

COUNT_CALLS = statement("""
    SELECT (SELECT count(*) FROM outbox_inference_call WHERE state = 'due') AS due,
           (SELECT count(*) FROM outbox_inference_call WHERE state = 'parked') AS parked
""")
"""Counts the calls that are not done, by their partial indexes."""
