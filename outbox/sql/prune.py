"""The SQL that removes rows whose work is done."""

from outbox.sql.statement import statement

SELECT_OLD = statement("""
    SELECT o.id, o.nonce, coalesce(o.changed_at, 0) AS changed_at_ms, o.received_at < :before AS old,
           o.state IN ('sent', 'discarded')
           AND NOT EXISTS (
               SELECT 1 FROM outbox_inference_call AS c
               WHERE c.row_id = o.id AND c.state NOT IN ('done', :given_up)
           )
           AND coalesce(o.sent_at, o.changed_at, o.received_at) < :before
           AND NOT EXISTS (
               SELECT 1 FROM outbox_shard AS s WHERE s.shard = o.shard AND s.condition LIKE :kafka_went_back
           ) AS prunable
    FROM outbox AS o WHERE o.id > :after ORDER BY o.id LIMIT :limit
""")
"""A page of rows by id: whether each is old, and whether it may be pruned. Rows of a shard that waits because Kafka
went back in time are not prunable: they may be all that is left of what Kafka has lost."""

_LOCK = 0x6F757462_6F780002
"""Advisory lock of pruning ("outbox", 2); any number that nothing else in the database uses."""
TRY_LOCK = statement(postgresql=f"SELECT pg_try_advisory_xact_lock({_LOCK})", sqlite="SELECT true")
WAIT_FOR_LOCK = statement(postgresql=f"SELECT pg_advisory_xact_lock({_LOCK})", sqlite="SELECT 1")
"""Let one transaction at a time prune; on SQLite ``BEGIN IMMEDIATE`` has locked the database."""

LOCK_ROWS = statement(
    postgresql="SELECT id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE SKIP LOCKED",
    sqlite="SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Locks rows, except those that another transaction has locked."""
PRUNE = statement(
    postgresql="""
    DELETE FROM outbox
    WHERE id IN (
        SELECT r.id
        FROM unnest(CAST(:id AS bigint[]), CAST(:nonce AS bigint[]), CAST(:changed_at_ms AS bigint[]))
             AS r(id, nonce, changed_at)
        WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
    )
      AND outbox.id = ANY(CAST(:locked AS bigint[]))
      AND outbox.state IN ('sent', 'discarded')
      AND NOT EXISTS (
          SELECT 1 FROM outbox_inference_call AS c
          WHERE c.row_id = outbox.id AND c.state NOT IN ('done', :given_up)
      )
    RETURNING id
    """,
    sqlite="""
    DELETE FROM outbox
    WHERE id IN (
        SELECT r.id
        FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at FROM json_each(:rows)) AS r
        WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at
    )
      AND outbox.id IN (SELECT value FROM json_each(:locked))
      AND outbox.state IN ('sent', 'discarded')
      AND NOT EXISTS (
          SELECT 1 FROM outbox_inference_call AS c
          WHERE c.row_id = outbox.id AND c.state NOT IN ('done', :given_up)
      )
    RETURNING id
    """,
)
"""Runs after ``LOCK_ROWS``, as a statement of its own: it sees what the earlier holders of the locks committed."""

PRUNE_CALLS = statement(
    postgresql="DELETE FROM outbox_inference_call WHERE row_id = ANY(CAST(:ids AS bigint[]))",
    sqlite="DELETE FROM outbox_inference_call WHERE row_id IN (SELECT value FROM json_each(:ids))",
)
"""Deletes the calls of deleted rows."""
