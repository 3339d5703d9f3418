"""The SQL that removes rows whose work is done."""

from outbox.sql.statement import move, statement

SELECT_OLD = statement("""
    SELECT o.id, o.nonce, coalesce(o.changed_at, 0) AS changed_at_ms, o.received_at < :before AS old,
           o.state IN ('sent', 'discarded')
           AND coalesce((SELECT c.state FROM outbox_inference_call AS c WHERE c.row_id = o.id), 'done')
               IN ('done', :given_up)
           AND coalesce(o.sent_at, o.changed_at, o.received_at) < :before
           AND NOT EXISTS (
               SELECT 1 FROM outbox_shard AS s WHERE s.shard = o.shard AND s.condition LIKE :kafka_went_back
           ) AS prunable
    FROM outbox_rows AS o WHERE o.id > :after ORDER BY o.id LIMIT :limit
""")
"""A page of rows by id: whether each is old, and whether it may be pruned. Rows of a shard that waits because Kafka
went back in time are not prunable: they may be all that is left of what Kafka has lost. The call is a scalar subquery:
for ``NOT EXISTS`` PostgreSQL reads all calls for each page."""

_LOCK = 0x6F757462_6F780002
"""Advisory lock of pruning ("outbox", 2); any number that nothing else in the database uses."""
TRY_LOCK = statement(postgresql=f"SELECT pg_try_advisory_xact_lock({_LOCK})", sqlite="SELECT true")
WAIT_FOR_LOCK = statement(postgresql=f"SELECT pg_advisory_xact_lock({_LOCK})", sqlite="SELECT 1")
"""Let one transaction at a time prune; on SQLite ``BEGIN IMMEDIATE`` has locked the database."""

LOCK_ROWS = statement(
    postgresql="""
    WITH sent AS (
        SELECT o.id FROM outbox AS o JOIN outbox_sent AS s ON s.id = o.id
        WHERE o.id = ANY(CAST(:ids AS bigint[])) FOR UPDATE SKIP LOCKED
    ),
    discarded AS (
        SELECT o.id FROM outbox AS o JOIN outbox_parked AS p ON p.id = o.id
        WHERE o.id = ANY(CAST(:ids AS bigint[])) AND p.state = 'discarded' FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM sent UNION ALL SELECT id FROM discarded
    """,
    sqlite="SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Locks sent and discarded rows and their states, except those that another transaction has locked: pruning never waits
for a row, so it cannot deadlock with those who lock rows in another order."""
PRUNE = move(
    postgresql="""
    WITH planned AS (
        SELECT o.id, r.changed_at
        FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
             AS r(id, nonce, changed_at)
        JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
        WHERE o.id = ANY(CAST(:locked AS bigint[]))
          AND NOT EXISTS (
              SELECT 1 FROM outbox_inference_call AS c WHERE c.row_id = o.id AND c.state NOT IN ('done', :given_up)
          )
    ),
    sent AS (
        DELETE FROM outbox_sent AS s USING planned AS n WHERE s.id = n.id AND n.changed_at = 0
        RETURNING s.id
    ),
    discarded AS (
        DELETE FROM outbox_parked AS p USING planned AS n
        WHERE p.id = n.id AND p.changed_at = n.changed_at AND p.state = 'discarded'
        RETURNING p.id
    )
    DELETE FROM outbox WHERE id IN (SELECT id FROM sent UNION ALL SELECT id FROM discarded)
    RETURNING id
    """,
    sqlite=[
        """
    DELETE FROM outbox
    WHERE id IN (
        SELECT o.id
        FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
        JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
        LEFT JOIN outbox_sent AS s ON s.id = o.id
        LEFT JOIN outbox_parked AS p ON p.id = o.id
        WHERE coalesce(p.changed_at, 0) = r.changed_at AND (s.id IS NOT NULL OR p.state = 'discarded')
          AND NOT EXISTS (
              SELECT 1 FROM outbox_inference_call AS c WHERE c.row_id = o.id AND c.state NOT IN ('done', :given_up)
          )
    )
    RETURNING id
    """,
        """
    DELETE FROM outbox_sent
    WHERE id IN (SELECT value ->> 0 FROM json_each(:rows))
      AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.id = outbox_sent.id)
    """,
        """
    DELETE FROM outbox_parked
    WHERE id IN (SELECT value ->> 0 FROM json_each(:rows))
      AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.id = outbox_parked.id)
    """,
    ],
)
"""Deletes sent and discarded rows from ``outbox`` and from the table of their state. Runs after ``LOCK_ROWS``, as a
statement of its own: it sees what the earlier holders of the locks committed."""

PRUNE_CALLS = statement(
    postgresql="DELETE FROM outbox_inference_call WHERE row_id = ANY(CAST(:ids AS bigint[]))",
    sqlite="DELETE FROM outbox_inference_call WHERE row_id IN (SELECT value FROM json_each(:ids))",
)
"""Deletes the calls of deleted rows."""
