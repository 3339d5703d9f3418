"""Every SQL statement of the flow, by name, written for both databases where they differ.

Lists travel as arrays on PostgreSQL and as one JSON text on SQLite; ``bind_list`` makes either.
Statements are composed of constants only, values are always bound.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, TextClause, text

from outbox.rows import Ref
from outbox.states import RowState

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


def bind_tags(connection: Connection, refs: Sequence[Ref]) -> str:
    """Tags as one text, a form that both databases read faster than a list of parameters."""
    tags = ",".join([str(tag) for _, tag in refs])
    return f"{{{tags}}}" if connection.dialect.name == "postgresql" else f"[{tags}]"


def bind_refs(connection: Connection, refs: Sequence[Ref]) -> dict[str, object]:
    """Parameters that name rows by id and tag: two arrays on PostgreSQL, one JSON text of pairs on SQLite."""
    if connection.dialect.name == "postgresql":
        return {"ids": [ref.id for ref in refs], "tags": [ref.tag for ref in refs]}
    return {"refs": json.dumps(refs)}


# Recording -----------------------------------------------------------------------------------------

_COLUMNS = """
    tag, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload, traceparent, received_at
"""

RECORD_POSTGRESQL = f"""
    INSERT INTO outbox ({_COLUMNS})
    SELECT r.tag, r.key, mod(r.crc, i.shards), r.interaction_id, r.channel, r.timestamp_ms,
           r.customer_email, r.agent_id, decode(r.payload, 'base64'), r.traceparent, {_NOW["postgresql"]}
    FROM outbox_identity AS i,
         ROWS FROM (json_to_recordset(%s) AS (
             tag bigint, key text, crc bigint, interaction_id text, channel text, timestamp_ms bigint,
             customer_email text, agent_id text, payload text, traceparent text
         )) WITH ORDINALITY
           AS r(tag, key, crc, interaction_id, channel, timestamp_ms,
                customer_email, agent_id, payload, traceparent, ordinal)
    ORDER BY r.ordinal
    ON CONFLICT (key) DO NOTHING
    RETURNING tag, id
"""
"""One statement a batch, for psycopg itself; the rows are one JSON text, which costs the driver least.
The number of shards is read by the insert, so that resharding never races with it."""


def record_sqlite(rows: int) -> str:
    """One statement for so many rows, of ten values each; otherwise as ``RECORD_POSTGRESQL``."""
    return f"""
    INSERT INTO outbox ({_COLUMNS})
    SELECT column1, column2, column3 % i.shards, column4, column5, column6,
           column7, column8, column9, column10, {_NOW["sqlite"]}
    FROM outbox_identity AS i, (VALUES {", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows)}) WHERE true
    ON CONFLICT (key) DO NOTHING
    """


NEWEST_SQLITE = """
    SELECT json_group_array(json_array(tag, id)) FROM (SELECT tag, id FROM outbox ORDER BY id DESC LIMIT ?)
"""
"""What a transaction has just inserted: it is the only writer, and a new id is above all others."""

PAYLOADS_BY_KEY = {
    "postgresql": """
    SELECT key, id, interaction_id, payload FROM outbox
    WHERE key IN (SELECT json_array_elements_text(%s))
    """,
    "sqlite": "SELECT key, id, interaction_id, payload FROM outbox WHERE key IN (SELECT value FROM json_each(?))",
}

RING = statement("""
    SELECT pg_notify('outbox_rows', coalesce(string_agg(DISTINCT CAST(mod(c.crc, i.shards) AS text), ' '), ''))
    FROM outbox_identity AS i LEFT JOIN unnest(CAST(:crcs AS bigint[])) AS c(crc) ON true
""")
LISTEN = statement("LISTEN outbox_rows")

# Sending -------------------------------------------------------------------------------------------

_PENDING = """
    SELECT o.id, o.tag, o.interaction_id, o.channel, o.timestamp_ms, o.customer_email, o.agent_id,
           o.traceparent, o.replay_of, o.received_at
    FROM outbox AS o
    WHERE o.shard = :shard AND o.state = 'pending' {waiting}
      AND EXISTS (SELECT 1 FROM outbox_shard
                  WHERE shard = :shard AND owner = :owner AND epoch = :epoch AND settled = :settled)
    ORDER BY o.id LIMIT :limit
"""
PENDING_WAIT = statement(
    _PENDING.replace(
        "{waiting}",
        """AND (NOT EXISTS (SELECT 1 FROM outbox WHERE shard = :shard AND state = 'parked') OR NOT EXISTS (
            SELECT 1 FROM outbox AS p
            WHERE p.shard = :shard AND p.state = 'parked' AND p.interaction_id = o.interaction_id AND p.id < o.id
        ))""",
    )
)
PENDING_PASS = statement(_PENDING.replace("{waiting}", ""))
"""Rows to send, in one snapshot with the shard's row: none, if that is not as the caller knows it. Whether
the shard has parked rows at all is asked once, and only then for each row. Ids are handed out before
commits, so a row may appear below ids already sent: rows are found by state, never by the last id seen."""

READ_SHARD = statement("SELECT owner, epoch, settled FROM outbox_shard WHERE shard = :shard")

LOCK_SHARD = statement(
    postgresql="SELECT owner, epoch, settled FROM outbox_shard WHERE shard = :shard FOR UPDATE",
    sqlite="SELECT owner, epoch, settled FROM outbox_shard WHERE shard = :shard",  # BEGIN IMMEDIATE has locked
)
SETTLE = statement("""
    UPDATE outbox_shard SET settled = CASE WHEN settled = :sequence - 1 THEN :sequence ELSE settled END
    WHERE shard = :shard RETURNING settled
""")
"""A sequence is settled only from the one before it: anything else would hide a restored database."""

_UNSENT = "state IN ('pending', 'parked', 'discarded')"
_SENT = "state = 'sent', sent_at = {now}, sequence = :sequence, error = NULL"
MARK_SENT = statement(
    postgresql=f"""
    UPDATE outbox AS o SET {_SENT}
    FROM unnest(CAST(:ids AS bigint[]), CAST(:tags AS bigint[])) AS r(id, tag)
    WHERE o.id = r.id AND o.tag = r.tag AND o.{_UNSENT}
    """,
    sqlite=f"""
    UPDATE outbox SET {_SENT}
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS tag FROM json_each(:refs)) AS r
    WHERE outbox.id = r.id AND outbox.tag = r.tag AND outbox.{_UNSENT}
    """,
)
_MARK_PENDING = f"""
    UPDATE outbox SET {_SENT}
    WHERE shard = :shard AND state = 'pending' AND id BETWEEN :first_id AND :last_id AND tag {{tags}}
"""
MARK_PENDING = statement(
    postgresql=_MARK_PENDING.replace("{tags}", "= ANY(CAST(:tags AS bigint[]))"),
    sqlite=_MARK_PENDING.replace("{tags}", "IN (SELECT value FROM json_each(:tags))"),
)
"""The same for the usual case, at half the cost: one walk along the index of pending rows, each row's tag
looked up among those of the transaction."""
CALLS_DUE = statement("""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT id, interaction_id, {now} FROM outbox
    WHERE id BETWEEN :first_id AND :last_id AND shard = :shard AND state = 'sent' AND sequence = :sequence
    ON CONFLICT (row_id) DO NOTHING
""")
"""Runs in the transaction that marks the rows, so no call is ever missing; the rows marked are
recognised by their sequence."""

PARK = statement("""
    UPDATE outbox SET state = 'parked', error = :error
    WHERE id = :id AND tag = :tag AND shard = :shard AND state = 'pending'
""")

# Leases --------------------------------------------------------------------------------------------

TAKE_LEASE = statement("""
    UPDATE outbox_shard SET owner = :owner, epoch = epoch + 1, lease_expires_at = {now} + :lease_ms
    WHERE shard = :shard AND (owner IS NULL OR owner = :owner OR owner = :dead_owner OR lease_expires_at <= {now})
    RETURNING epoch, settled
""")
RENEW_LEASE = statement("""
    UPDATE outbox_shard
    SET lease_expires_at = {now} + :lease_ms, rows_per_second = :rows_per_second, condition = NULL
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
""")
RELEASE_LEASE = statement("""
    UPDATE outbox_shard SET owner = NULL, lease_expires_at = 0, rows_per_second = 0
    WHERE shard = :shard AND owner = :owner AND epoch = :epoch
""")
SET_CONDITION = statement("""
    UPDATE outbox_shard SET condition = :condition, rows_per_second = 0
    WHERE shard = :shard AND (owner = :owner OR owner IS NULL OR lease_expires_at <= {now})
""")
OWNERS = statement("SELECT shard, owner FROM outbox_shard ORDER BY shard")

# Identity, health, status --------------------------------------------------------------------------

IDENTITY = statement("""
    SELECT outbox_id, shards, topic, progress_topic, transactional_id_prefix, cluster_id FROM outbox_identity
""")
BIND_IDENTITY = statement("""
    UPDATE outbox_identity
    SET topic = :topic, progress_topic = :progress_topic,
        transactional_id_prefix = :transactional_id_prefix, cluster_id = :cluster_id
    WHERE topic IS NULL
""")
REVISION = statement("SELECT version_num FROM alembic_version")
TOUCH = statement("UPDATE outbox_identity SET id = id")
BACKLOG = statement("""
    SELECT count(*) FROM (SELECT 1 FROM outbox WHERE state = 'pending' LIMIT :limit) AS pending
""")
STATUS = statement("""
    SELECT s.shard, s.owner, s.epoch, s.lease_expires_at - {now} AS lease_remaining_ms, s.settled,
           s.rows_per_second, s.condition,
           (SELECT count(*) FROM outbox WHERE shard = s.shard AND state = 'pending') AS pending,
           (SELECT count(*) FROM
               (SELECT interaction_id, min(id) AS id FROM outbox
                WHERE shard = s.shard AND state = 'parked' GROUP BY interaction_id) AS p
               JOIN outbox AS o ON o.shard = s.shard AND o.state = 'pending'
                               AND o.interaction_id = p.interaction_id AND o.id > p.id) AS waiting,
           (SELECT count(*) FROM outbox WHERE shard = s.shard AND state = 'parked') AS parked,
           (SELECT count(*) FROM outbox WHERE shard = s.shard AND state = 'discarded') AS discarded,
           {now} - (SELECT received_at FROM outbox WHERE shard = s.shard AND state = 'pending'
                    ORDER BY id LIMIT 1) AS oldest_age_ms
    FROM outbox_shard AS s ORDER BY s.shard
""")
"""Counts come from the partial indexes: their cost follows what is pending, not history."""

# Inference calls -----------------------------------------------------------------------------------

_CLAIM = """
    UPDATE outbox_inference_call SET claimed_by = :owner, due_at = {now} + :claim_ms
    WHERE row_id IN (
        SELECT c.row_id FROM outbox_inference_call AS c
        WHERE c.state = 'due' AND c.due_at <= {now} AND NOT EXISTS (
            SELECT 1 FROM outbox_inference_call AS e
            WHERE e.state = 'due' AND e.interaction_id = c.interaction_id AND e.row_id < c.row_id
        )
        ORDER BY c.due_at LIMIT :limit {lock}
    )
    RETURNING row_id
"""
CLAIM_CALLS = statement(
    postgresql=_CLAIM.replace("{lock}", "FOR UPDATE SKIP LOCKED"),
    sqlite=_CLAIM.replace("{lock}", ""),
)
"""The first due call of each interaction; a claim that runs out is due again by itself."""
CLAIMED_CALLS = statement(
    postgresql="""
    SELECT c.row_id, c.interaction_id, o.timestamp_ms, o.traceparent, c.attempts
    FROM outbox_inference_call AS c JOIN outbox AS o ON o.id = c.row_id
    WHERE c.row_id = ANY(CAST(:ids AS bigint[]))
    """,
    sqlite="""
    SELECT c.row_id, c.interaction_id, o.timestamp_ms, o.traceparent, c.attempts
    FROM outbox_inference_call AS c JOIN outbox AS o ON o.id = c.row_id
    WHERE c.row_id IN (SELECT value FROM json_each(:ids))
    """,
)
SETTLE_CALL = statement("""
    UPDATE outbox_inference_call
    SET state = :state, attempts = :attempts, status = :status, error = :error, latency_ms = :latency_ms,
        due_at = {now} + :retry_in_ms, claimed_by = NULL
    WHERE row_id = :row_id AND state = 'due'
""")
"""Also when the claim had run out and another worker took the call up: that it was answered is a fact."""

CLAIMANTS = statement(
    "SELECT DISTINCT claimed_by FROM outbox_inference_call WHERE state = 'due' AND claimed_by IS NOT NULL"
)
RELEASE_CLAIMS = statement("""
    UPDATE outbox_inference_call SET claimed_by = NULL, due_at = {now} WHERE state = 'due' AND claimed_by = :owner
""")

# Operators -----------------------------------------------------------------------------------------

_FIND = """
    SELECT o.id, o.tag, o.shard, o.state, o.interaction_id, o.channel, o.received_at, o.sent_at, o.replay_of, o.error
    FROM outbox AS o WHERE o.id > :after {conditions} ORDER BY o.id LIMIT :limit
"""
_CONDITIONS = {
    "ids": ("o.id = ANY(CAST(:ids AS bigint[]))", "o.id IN (SELECT value FROM json_each(:ids))"),
    "interaction_id": ("o.interaction_id = :interaction_id",) * 2,
    "channel": ("o.channel = :channel",) * 2,
    "error": ("strpos(lower(o.error), lower(:error)) > 0", "instr(lower(o.error), lower(:error)) > 0"),
    "since_ms": ("o.received_at >= :since_ms",) * 2,
    "until_ms": ("o.received_at < :until_ms",) * 2,
    # Written out, not bound, so that the partial indexes serve.
    **{f"state {state}": (f"o.state = '{state}'",) * 2 for state in RowState},
}


def find(conditions: Sequence[str]) -> Statement:
    """Rows by any of the conditions: names of ``RowFilter``'s fields, and ``state <name>``."""
    chosen = [_CONDITIONS[name] for name in conditions]
    return statement(*(_FIND.replace("{conditions}", "".join(f" AND {c[n]}" for c in chosen)) for n in (0, 1)))


COUNT_BEHIND = statement(
    postgresql="""
    SELECT count(DISTINCT o.id) FROM outbox AS p JOIN outbox AS o
        ON o.shard = p.shard AND o.interaction_id = p.interaction_id AND o.id > p.id AND o.state = 'pending'
    WHERE p.id = ANY(CAST(:ids AS bigint[])) AND p.state = 'parked'
    """,
    sqlite="""
    SELECT count(DISTINCT o.id) FROM outbox AS p JOIN outbox AS o
        ON o.shard = p.shard AND o.interaction_id = p.interaction_id AND o.id > p.id AND o.state = 'pending'
    WHERE p.id IN (SELECT value FROM json_each(:ids)) AND p.state = 'parked'
    """,
)
PARKED_ERRORS = statement("""
    SELECT error, count(*) AS rows, min(received_at) AS oldest FROM outbox WHERE state = 'parked' GROUP BY error
""")

_LEAVE_PARKED = {
    "postgresql": """
    UPDATE outbox AS o SET {change}
    FROM unnest(CAST(:ids AS bigint[]), CAST(:tags AS bigint[])) AS r(id, tag)
    WHERE o.id = r.id AND o.tag = r.tag AND o.shard = :shard AND o.state = 'parked' RETURNING o.id
    """,
    "sqlite": """
    UPDATE outbox SET {change}
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS tag FROM json_each(:refs)) AS r
    WHERE outbox.id = r.id AND outbox.tag = r.tag AND outbox.shard = :shard AND outbox.state = 'parked'
    RETURNING outbox.id
    """,
}
RETRY = statement(*(each.replace("{change}", "state = 'pending', error = NULL") for each in _LEAVE_PARKED.values()))
DISCARD = statement(*(each.replace("{change}", "state = 'discarded'") for each in _LEAVE_PARKED.values()))
"""Both run under the shard's lock and name id, tag and from-state: what changed since is left alone."""

_REPLAY = """
    INSERT INTO outbox (tag, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
                        traceparent, received_at, replay_of)
    SELECT r.new_tag, :prefix || o.id, r.crc % i.shards, o.interaction_id, o.channel, o.timestamp_ms,
           o.customer_email, o.agent_id, o.payload, o.traceparent, {now}, o.id
    FROM outbox_identity AS i, {rows} AS r JOIN outbox AS o ON o.id = r.id AND o.tag = r.tag
    WHERE o.state IN ('sent', 'discarded') AND substr(o.key, 1, length(:prefix)) <> :prefix ORDER BY o.id
    ON CONFLICT (key) DO NOTHING RETURNING replay_of
"""
REPLAY = statement(
    postgresql=_REPLAY.replace(
        "{rows}",
        """unnest(CAST(:ids AS bigint[]), CAST(:tags AS bigint[]), CAST(:new_tags AS bigint[]),
                CAST(:crcs AS bigint[]))""",
    ).replace("AS r JOIN", "AS r(id, tag, new_tag, crc) JOIN"),
    sqlite=_REPLAY.replace(
        "{rows}",
        """(SELECT value ->> 0 AS id, value ->> 1 AS tag, value ->> 2 AS new_tag, value ->> 3 AS crc
           FROM json_each(:rows))""",
    ),
)
"""New rows with the content of old ones. A plan's key for a row is taken once, and what a plan made is none
of its rows, so that a plan that was interrupted can be given again."""

LOCK_AUDIT = statement(
    postgresql="LOCK TABLE outbox_audit IN EXCLUSIVE MODE",
    sqlite="SELECT 1",  # BEGIN IMMEDIATE has locked
)
LAST_AUDIT = statement("SELECT hash FROM outbox_audit ORDER BY id DESC LIMIT 1")
ADD_AUDIT = statement("""
    INSERT INTO outbox_audit (at, actor, verb, filter, reason, row_ids, hash)
    VALUES (:at, :actor, :verb, :filter, :reason, :row_ids, :hash)
""")
NOW = statement("SELECT {now}")
AUDIT = statement("""
    SELECT id, at, actor, verb, filter, reason, row_ids, hash FROM outbox_audit
    WHERE id > :after ORDER BY id LIMIT :limit
""")
