"""The SQL that stores new rows and notifies relays of them.

These statements go to the driver itself, so they have the driver's placeholders.
"""

INSERT_POSTGRESQL = """
    WITH added AS (
        INSERT INTO outbox (
            nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
            payload_digest, traceparent, received_at
        )
        SELECT r.nonce, decode(r.key, 'hex'), r.hash, r.interaction_id, r.channel, r.timestamp_ms, r.customer_email,
               r.agent_id, decode(r.payload, 'base64'), decode(r.payload_digest, 'hex'), r.traceparent,
               CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
        FROM ROWS FROM (json_to_recordset(%s) AS (
                 nonce bigint, key text, hash integer, interaction_id text, channel text, timestamp_ms bigint,
                 customer_email text, agent_id text, payload text, payload_digest text, traceparent text
             )) WITH ORDINALITY
               AS r(nonce, key, hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
                    payload_digest, traceparent, ordinal)
        ORDER BY r.ordinal
        ON CONFLICT (key) DO NOTHING
        RETURNING id, nonce, interaction_hash
    ),
    pending AS (
        INSERT INTO outbox_pending (shard, id, nonce)
        SELECT mod(a.interaction_hash, i.shards), a.id, a.nonce FROM added AS a, outbox_identity AS i
    )
    SELECT nonce, id FROM added
"""
"""Inserts a batch of rows, passed as one JSON text, which costs the driver least. The statement itself reads the
number of shards, so it cannot race with a reshard."""


def insert_sqlite(rows: int) -> str:
    """Return the same statement for SQLite, with placeholders for this many rows; a trigger makes the rows pending.

    It begins with INSERT, as Python's own driver counts inserted rows only of statements that do.
    """
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows)
    return f"""
    INSERT INTO outbox (
        nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
        payload_digest, traceparent, received_at
    )
    WITH r(nonce, key, hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload, payload_digest,
           traceparent) AS (VALUES {values})
    SELECT r.nonce, r.key, r.hash, r.interaction_id, r.channel, r.timestamp_ms, r.customer_email, r.agent_id, r.payload,
           r.payload_digest, r.traceparent, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM r WHERE true
    ON CONFLICT (key) DO NOTHING
    """


INSERTED_SQLITE = """
    SELECT nonce, id FROM outbox
    WHERE key IN (SELECT unhex(value) FROM json_each(?)) AND nonce IN (SELECT value FROM json_each(?))
"""
"""Of the rows with these keys, those with one of these nonces: the ones that were just inserted."""

ROWS_BY_KEY_POSTGRESQL = """
    SELECT o.key, o.id, o.nonce, o.interaction_id, o.payload_digest
    FROM outbox AS o, outbox_identity AS i
    WHERE o.key IN (SELECT decode(value, 'hex') FROM json_array_elements_text(%s) AS k(value))
    FOR KEY SHARE OF i
"""
ROWS_BY_KEY_SQLITE = """
    SELECT key, id, nonce, interaction_id, payload_digest
    FROM outbox WHERE key IN (SELECT unhex(value) FROM json_each(?))
"""
"""The rows that already have the keys of a batch, which are passed in hexadecimal.

On PostgreSQL the lock is written to the log, so this commit waits for the synchronous standby, and with it for the rows
found: the wait of their own commits may have been cancelled, or a crash of the primary may have ended it.
"""

NOTIFY = """
    SELECT pg_notify('outbox_rows', coalesce(string_agg(DISTINCT CAST(mod(c.hash, i.shards) AS text), ' '), ''))
    FROM outbox_identity AS i LEFT JOIN unnest(CAST(%s AS bigint[])) AS c(hash) ON true
"""
"""Notifies listeners of the shards of these interaction hashes, which are passed as one text: ``{1,2}``."""
LISTEN = "LISTEN outbox_rows"
"""Receives the notifications of ``NOTIFY``."""
UNLISTEN = "UNLISTEN outbox_rows"
"""Ends ``LISTEN``."""
