"""Every SQL statement of the flow, by name, written for both databases where they differ.

Lists travel as arrays on PostgreSQL and as one JSON text on SQLite; ``bind_list`` makes either.
Statements are composed of constants only, values are always bound.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, TextClause, text

from outbox.models import RowRef

_NOW = {
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
"""The database's own clock, in milliseconds since the epoch."""


class Statement(NamedTuple):
    """One statement, as each database wants it."""

    postgresql: TextClause
    sqlite: TextClause

    def on(self, connection: Connection) -> TextClause:
        """The variant for this connection's database."""
        return self.postgresql if connection.dialect.name == "postgresql" else self.sqlite


def statement(postgresql: str, sqlite: str | None = None) -> Statement:
    """A statement from its text (the same for both, if one is given); ``{now}`` is the database's clock."""
    return Statement(
        text(postgresql.replace("{now}", _NOW["postgresql"])),
        text((sqlite or postgresql).replace("{now}", _NOW["sqlite"])),
    )


def bind_list(connection: Connection, values: list[int] | list[str]) -> list[int] | list[str] | str:
    """A list as the database's driver takes it."""
    return values if connection.dialect.name == "postgresql" else json.dumps(values)


def bind_nonces(connection: Connection, refs: Sequence[RowRef]) -> str:
    """Tags as one text, a form that both databases read faster than a list of parameters."""
    return _bind_text(connection, [str(nonce) for _, nonce in refs])


def bind_ids(connection: Connection, refs: Sequence[RowRef]) -> str:
    """Ids in the same form."""
    return _bind_text(connection, [str(row_id) for row_id, _ in refs])


def _bind_text(connection: Connection, numbers: list[str]) -> str:
    listed = ",".join(numbers)
    return f"{{{listed}}}" if connection.dialect.name == "postgresql" else f"[{listed}]"


def bind_refs(connection: Connection, refs: Sequence[RowRef]) -> dict[str, object]:
    """Parameters that name rows by id and tag: two arrays on PostgreSQL, one JSON text of pairs on SQLite."""
    if connection.dialect.name == "postgresql":
        return {"ids": [ref.id for ref in refs], "nonces": [ref.nonce for ref in refs]}
    return {"refs": json.dumps(refs)}


# Recording -----------------------------------------------------------------------------------------

_COLUMNS = """
    nonce, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload, payload_digest,
    traceparent, received_at
"""

RECORD_POSTGRESQL = f"""
    INSERT INTO outbox ({_COLUMNS})
    SELECT r.nonce, r.key, mod(r.hash, i.shards), r.interaction_id, r.channel, r.timestamp_ms,
           r.customer_email, r.agent_id, decode(r.payload, 'base64'), decode(r.payload_digest, 'hex'),
           r.traceparent, {_NOW["postgresql"]}
    FROM outbox_identity AS i,
         ROWS FROM (json_to_recordset(%s) AS (
             nonce bigint, key text, hash bigint, interaction_id text, channel text, timestamp_ms bigint,
             customer_email text, agent_id text, payload text, payload_digest text, traceparent text
         )) WITH ORDINALITY
           AS r(nonce, key, hash, interaction_id, channel, timestamp_ms,
                customer_email, agent_id, payload, payload_digest, traceparent, ordinal)
    ORDER BY r.ordinal
    ON CONFLICT (key) DO NOTHING
    RETURNING nonce, id
"""
"""One statement a batch, for psycopg itself; the rows are one JSON text, which costs the driver least.
The number of shards is read by the insert, so that resharding never races with it."""


def record_sqlite(rows: int) -> str:
    """One statement for so many rows, of eleven values each, inserted in their order; otherwise as above."""
    return f"""
    INSERT INTO outbox ({_COLUMNS})
    SELECT column1, column2, column3 % (SELECT shards FROM outbox_identity), column4, column5, column6,
           column7, column8, column9, column10, column11, {_NOW["sqlite"]}
    FROM (VALUES {", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows)}) WHERE true
    ON CONFLICT (key) DO NOTHING
    """


IDS_SQLITE = """
    SELECT nonce, id FROM outbox
    WHERE key IN (SELECT value FROM json_each(?)) AND nonce IN (SELECT value FROM json_each(?))
"""
"""Of the rows with these keys, those that have one of these tags: the ones just inserted."""

DIGESTS_BY_KEY = {
    "postgresql": """
    SELECT key, id, nonce, interaction_id, payload_digest FROM outbox
    WHERE key IN (SELECT json_array_elements_text(%s))
    """,
    "sqlite": """
    SELECT key, id, nonce, interaction_id, payload_digest FROM outbox WHERE key IN (SELECT value FROM json_each(?))
    """,
}

NOTIFY = """
    SELECT pg_notify('outbox_rows', coalesce(string_agg(DISTINCT CAST(mod(c.hash, i.shards) AS text), ' '), ''))
    FROM outbox_identity AS i LEFT JOIN unnest(CAST(%s AS bigint[])) AS c(hash) ON true
"""
"""For psycopg itself; the interactions' hashes as one text, ``{1,2}``."""
LISTEN, UNLISTEN = "LISTEN outbox_rows", "UNLISTEN outbox_rows"

# Sending -------------------------------------------------------------------------------------------

_PENDING = """
    SELECT o.id, o.nonce, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at, o.enriched_at, o.topic
    FROM outbox AS o
    WHERE o.shard = :shard AND o.state = 'pending' {waiting}
      AND EXISTS (SELECT 1 FROM outbox_shard
                  WHERE shard = :shard AND owner = :owner AND epoch = :epoch
                    AND acknowledged_sequence = :acknowledged_sequence)
    ORDER BY o.id LIMIT :limit
"""
PENDING_BLOCK = statement(
    _PENDING.replace(
        "{waiting}",
        """AND (NOT EXISTS (SELECT 1 FROM outbox WHERE shard = :shard AND state = 'parked') OR NOT EXISTS (
            SELECT 1 FROM outbox AS p
            WHERE p.shard = :shard AND p.state = 'parked' AND p.interaction_id = o.interaction_id AND p.id < o.id
        ))""",
    )
)
PENDING_SKIP = statement(_PENDING.replace("{waiting}", ""))
"""Rows to send, in one snapshot with the shard's row: none, if that is not as the caller knows it. Whether
the shard has parked rows at all is asked once, and only then for each row. Ids are handed out before
commits, so a row may appear below ids already sent: rows are found by state, never by the last id seen."""

READ_SHARD = statement("""
    SELECT owner, epoch, acknowledged_sequence, progress_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard
""")
LOCK_SHARD = statement(
    postgresql="""
    SELECT owner, epoch, acknowledged_sequence, progress_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard FOR UPDATE
    """,
    sqlite="""
    SELECT owner, epoch, acknowledged_sequence, progress_sequence, progress_offset, progress_digest
    FROM outbox_shard WHERE shard = :shard
    """,  # BEGIN IMMEDIATE has locked
)
SETTLE = statement("""
    UPDATE outbox_shard
    SET acknowledged_sequence = :sequence, progress_sequence = :sequence,
        progress_offset = :offset, progress_digest = :digest
    WHERE shard = :shard
""")
"""Under the shard's lock, once it is known that the record is the settled one or the next."""
FORGET_RECORD = statement("""
    UPDATE outbox_shard SET progress_sequence = NULL, progress_offset = NULL, progress_digest = NULL
    WHERE shard = :shard
""")

_UNSENT = "state IN ('pending', 'parked', 'discarded')"
_SENT = "state = 'sent', sent_at = {now}, sequence = :sequence, error = NULL"
MARK_SENT = statement(
    postgresql=f"""
    UPDATE outbox AS o SET {_SENT}
    FROM unnest(CAST(:ids AS bigint[]), CAST(:nonces AS bigint[])) AS r(id, nonce)
    WHERE o.id = r.id AND o.nonce = r.nonce AND o.{_UNSENT}
    """,
    sqlite=f"""
    UPDATE outbox SET {_SENT}
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS nonce FROM json_each(:refs)) AS r
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND outbox.{_UNSENT}
    """,
)
_MARK_PENDING = f"""
    UPDATE outbox SET {_SENT}
    WHERE shard = :shard AND state = 'pending' AND id BETWEEN :first_id AND :last_id AND nonce {{nonces}}
"""
MARK_PENDING = statement(
    postgresql=_MARK_PENDING.replace("{nonces}", "= ANY(CAST(:nonces AS bigint[]))"),
    sqlite=_MARK_PENDING.replace("{nonces}", "IN (SELECT value FROM json_each(:nonces))"),
)
"""The same for the usual case, at half the cost: one walk along the index of pending rows, each row's tag
looked up among those of the transaction."""
_LEARN = """
    UPDATE outbox SET customer_email = COALESCE(customer_email, r.email), agent_id = COALESCE(agent_id, r.agent),
                      enriched_at = {now}
    FROM {learned}
    WHERE outbox.id = r.id AND outbox.nonce = r.nonce AND outbox.state = 'pending' AND enriched_at IS NULL
    RETURNING outbox.id, customer_email, agent_id, enriched_at
"""
LEARN = statement(
    postgresql=_LEARN.replace(
        "{learned}",
        """unnest(CAST(:ids AS bigint[]), CAST(:nonces AS bigint[]), CAST(:emails AS text[]), CAST(:agents AS text[]))
           AS r(id, nonce, email, agent)""",
    ),
    sqlite=_LEARN.replace(
        "{learned}",
        """(SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS email, value ->> 3 AS agent
            FROM json_each(:learned)) AS r""",
    ),
)
"""What CXone knows of rows, once: nothing that the row has is replaced, nothing that was erased comes back."""

PARK = statement("""
    UPDATE outbox SET state = 'parked', error = :error, changed_at = {now}
    WHERE id = :id AND nonce = :nonce AND shard = :shard AND state = 'pending'
""")

# Identity, health ----------------------------------------------------------------------------------

IDENTITY = statement("""
    SELECT outbox_id, shards, topic, progress_topic, transactional_id_prefix, cluster_id FROM outbox_identity
""")
BIND_IDENTITY = statement("""
    UPDATE outbox_identity
    SET topic = :topic, progress_topic = :progress_topic,
        transactional_id_prefix = :transactional_id_prefix, cluster_id = :cluster_id
    WHERE topic IS NULL AND outbox_id = :outbox_id
""")
NOW = statement("SELECT {now}")
REVISION = statement("SELECT version_num FROM alembic_version")
TOUCH = statement("UPDATE outbox_identity SET id = id")
INSERT_NOTHING = statement("INSERT INTO outbox (key) SELECT NULL WHERE 1 = 0")
"""Stores no row, but needs the table's lock and the right to insert, as storing one does."""
BACKLOG = statement("""
    SELECT count(*) FROM (SELECT 1 FROM outbox WHERE state = 'pending' LIMIT :limit) AS pending
""")
