"""The SQL of operators and of pruning: finding rows, changing exactly those that were planned, the audit.

Rows to change travel as id, tag and the moment of their last change: ``bind_planned``. Whatever is not
as it was planned does not match, and is left alone.
"""

import json
from collections.abc import Sequence

from sqlalchemy import Connection

from outbox.models import PlannedRow
from outbox.sql.flow import Statement, statement
from outbox.states import RowState
from outbox.verdicts import KAFKA_WENT_BACK

_AMONG = {
    "postgresql": "{column} = ANY(CAST(:ids AS bigint[]))",
    "sqlite": "{column} IN (SELECT value ->> 0 FROM json_each(:planned))",
}
_PLANNED = {
    "postgresql": """unnest(CAST(:ids AS bigint[]), CAST(:nonces AS bigint[]), CAST(:changes AS bigint[]))
        AS r(id, nonce, changed_at)""",
    "sqlite": """(SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS changed_at
        FROM json_each(:planned)) AS r""",
}
_AS_PLANNED = "outbox.id = r.id AND outbox.nonce = r.nonce AND coalesce(outbox.changed_at, 0) = r.changed_at"


def bind_planned(connection: Connection, rows: Sequence[PlannedRow]) -> dict[str, object]:
    """Parameters that name planned rows."""
    if connection.dialect.name == "postgresql":
        return {
            "ids": [row.id for row in rows],
            "nonces": [row.nonce for row in rows],
            "changes": [row.changed_at_ms for row in rows],
        }
    return {"planned": json.dumps(rows)}


def _both(template: str, **variants: dict[str, str]) -> Statement:
    """A statement whose ``{name}`` is what each database wants there."""
    texts = []
    for database in ("postgresql", "sqlite"):
        text = template
        for name, variant in variants.items():
            text = text.replace(f"{{{name}}}", variant[database])
        texts.append(text)
    return statement(*texts)


# Finding -------------------------------------------------------------------------------------------

_FOUND = """
    o.id, o.nonce, o.shard, o.state, o.interaction_id, o.channel, o.received_at, o.sent_at, o.replay_of, o.error,
    o.topic, coalesce(o.changed_at, 0)
"""
ROWS = (
    f"SELECT {_FOUND} FROM outbox AS o WHERE o.id > :after AND o.id <= :last {{conditions}} ORDER BY o.id LIMIT :limit"
)
PARKED_CALLS = """
    SELECT o.id, o.nonce, o.shard, c.state, o.interaction_id, o.channel, o.received_at, o.sent_at, o.replay_of, c.error,
           o.topic, c.due_at
    FROM outbox_inference_call AS c JOIN outbox AS o ON o.id = c.row_id
    WHERE c.state = 'parked' AND c.row_id > :after AND c.row_id <= :last {conditions} ORDER BY c.row_id LIMIT :limit
"""
"""A call stands in for its row; ``due_at`` is when it was parked."""
BEHIND = """
    SELECT count(*) FROM outbox AS w WHERE w.state = 'pending' AND EXISTS (
        SELECT 1 FROM outbox AS o
        WHERE o.shard = w.shard AND o.interaction_id = w.interaction_id AND o.id < w.id {conditions}
    )
"""
PARKED_ERRORS = """
    SELECT o.error, count(*) AS rows, min(coalesce(o.changed_at, o.received_at)) AS oldest, {now} AS now
    FROM outbox AS o WHERE true {conditions} GROUP BY o.error
"""
_ERROR = {
    "postgresql": "strpos(lower({row}.error), lower(:error)) > 0",
    "sqlite": "instr(lower({row}.error), lower(:error)) > 0",
}
_MAY_HOLD_EMAIL = {
    "postgresql": """(lower(o.customer_email) = lower(:email)
        OR octet_length(o.customer_email) > length(o.customer_email)
        OR strpos(encode(o.payload, 'escape'), CHR(92)) > 0
        OR strpos(lower(encode(o.payload, 'escape') COLLATE "C"), lower(:email COLLATE "C")) > 0)""",
    "sqlite": """(lower(o.customer_email) = lower(:email)
        OR length(CAST(o.customer_email AS BLOB)) > length(o.customer_email)
        OR length(o.payload) > length(CAST(o.payload AS TEXT)) OR instr(o.payload, CAST(char(92) AS BLOB)) > 0
        OR instr(lower(CAST(o.payload AS TEXT)), lower(:email)) > 0)""",
}
"""Every row that holds the address as it is written here in ASCII, in either case; and every row with a backslash
or a character beyond ASCII, which may spell it otherwise. PostgreSQL's ``escape`` writes either with a backslash."""
_IDS = {
    "postgresql": "o.id = ANY(CAST(:ids AS bigint[]))",
    "sqlite": "o.id IN (SELECT value FROM json_each(:ids))",
}
_SETTLED = """{row}.state IN ('sent', 'discarded') AND NOT EXISTS (
    SELECT 1 FROM outbox_inference_call AS c WHERE c.row_id = {row}.id AND c.state NOT IN ('done', :given_up)
)"""
_CONDITIONS: dict[str, str | dict[str, str]] = {
    "ids": _IDS,
    "interaction_id": "o.interaction_id = :interaction_id",
    "channel": "o.channel = :channel",
    "error": {name: text.replace("{row}", "o") for name, text in _ERROR.items()},
    "error of the call": {name: text.replace("{row}", "c") for name, text in _ERROR.items()},
    "since_ms": "o.received_at >= :since_ms",
    "until_ms": "o.received_at < :until_ms",
    "email": _MAY_HOLD_EMAIL,
    "shard": "o.shard = :shard",
    "settled": _SETTLED.replace("{row}", "o"),
    "holds a person's data": "(o.customer_email IS NOT NULL OR length(o.payload) > 0)",
    "not replayed by the plan": """substr(o.key, 1, length(:prefix)) <> :prefix
        AND NOT EXISTS (SELECT 1 FROM outbox AS made WHERE made.key = :prefix || o.id)""",
    "replayed by the plan": "EXISTS (SELECT 1 FROM outbox AS made WHERE made.key = :prefix || o.id)",
    # Written out, not bound, so that the partial indexes serve.
    **{f"state {state}": f"o.state = '{state}'" for state in RowState},
}


def with_conditions(template: str, names: Sequence[str]) -> Statement:
    """One of the templates above, narrowed by conditions: a ``RowFilter``'s fields, ``state <name>``, and others."""
    texts = []
    for database in ("postgresql", "sqlite"):
        chosen = [c if isinstance(c := _CONDITIONS[name], str) else c[database] for name in names]
        texts.append(template.replace("{conditions}", "".join(f" AND {condition}" for condition in chosen)))
    return statement(*texts)


CONTENTS = statement(
    postgresql="SELECT id, customer_email, payload FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))",
    sqlite="SELECT id, customer_email, payload FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""Of rows that may hold an address."""
ID_BOUNDS = statement("""
    SELECT coalesce((SELECT min(id) FROM outbox), 0) AS first, coalesce((SELECT max(id) FROM outbox), 0) AS last
""")
"""Two subqueries, for SQLite reads the whole table where both are asked of one."""
RECEIVED_FROM = statement("SELECT id, received_at FROM outbox WHERE id >= :id ORDER BY id LIMIT 1")
REPLAYED_BEFORE = _both("SELECT count(DISTINCT replay_of) FROM outbox WHERE {among}", among={
    name: text.replace("{column}", "replay_of") for name, text in _AMONG.items()
})  # fmt: skip
WITH_ADDRESS = _both(
    "SELECT state, count(*) AS rows FROM outbox WHERE {among} AND customer_email IS NOT NULL GROUP BY state",
    among={name: text.replace("{column}", "id") for name, text in _AMONG.items()},
)
# Changing ------------------------------------------------------------------------------------------

_COLUMN_ID = {name: text.replace("{column}", "id") for name, text in _AMONG.items()}
LOCK_SHARDS = statement(
    postgresql=f"""
    SELECT shard FROM outbox_shard WHERE shard IN (SELECT shard FROM outbox WHERE {_COLUMN_ID["postgresql"]})
    ORDER BY shard FOR UPDATE
    """,
    sqlite=f"SELECT DISTINCT shard FROM outbox WHERE {_COLUMN_ID['sqlite']}",  # BEGIN IMMEDIATE has locked
)
"""The shards of planned rows; in order, so that two operators never wait in a circle."""
HOLD_ROWS = statement(
    postgresql=f"SELECT id, interaction_id FROM outbox WHERE {_COLUMN_ID['postgresql']} ORDER BY id FOR SHARE",
    sqlite=f"SELECT id, interaction_id FROM outbox WHERE {_COLUMN_ID['sqlite']}",
)
"""Nobody prunes or erases them before this transaction ends."""
TAKE_ROWS = statement(
    postgresql=f"SELECT id FROM outbox WHERE {_COLUMN_ID['postgresql']} ORDER BY id FOR UPDATE SKIP LOCKED",
    sqlite=f"SELECT id FROM outbox WHERE {_COLUMN_ID['sqlite']}",
)

_IN_LOCKED_SHARDS = {
    "postgresql": "outbox.shard = ANY(CAST(:shards AS smallint[]))",
    "sqlite": "outbox.shard IN (SELECT value FROM json_each(:shards))",
}
_CHANGE = "UPDATE outbox SET {change} FROM {planned} WHERE {as_planned} AND {still} RETURNING outbox.id"


def _change(change: str, still: str) -> Statement:
    text = _CHANGE.replace("{change}", change).replace("{as_planned}", _AS_PLANNED).replace("{still}", still)
    return _both(text, planned=_PLANNED, in_locked_shards=_IN_LOCKED_SHARDS)


_PARKED = "outbox.state = 'parked' AND {in_locked_shards}"
RETRY = _change("state = 'pending', error = NULL, changed_at = {now}", _PARKED)
DISCARD = _change("state = 'discarded', changed_at = {now}", _PARKED)
ERASE = _change(
    "customer_email = NULL, payload = :erased, payload_digest = NULL, enriched_at = coalesce(enriched_at, {now})",
    "(outbox.state = 'sent' OR {in_locked_shards})",
)
"""All three run under the shards' locks; ``ERASE`` too, lest it and a mark wait for each other's rows: a sent
row, whose shard may be gone, no mark touches. What it erased is not asked for again."""

_REPLAY = """
    INSERT INTO outbox (nonce, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
                        payload_digest, traceparent, received_at, replay_of, enriched_at, topic)
    SELECT r.new_tag, :prefix || o.id, r.hash % i.shards, o.interaction_id, o.channel, o.timestamp_ms,
           o.customer_email, o.agent_id, o.payload, o.payload_digest, o.traceparent, {now}, o.id, o.enriched_at,
           CAST(:topic AS text)
    FROM outbox_identity AS i, {rows} JOIN outbox AS o ON o.id = r.id AND o.nonce = r.nonce
    WHERE o.state IN ('sent', 'discarded') AND substr(o.key, 1, length(:prefix)) <> :prefix ORDER BY o.id
    ON CONFLICT (key) DO NOTHING RETURNING replay_of
"""
REPLAY = _both(
    _REPLAY,
    rows={
        "postgresql": """unnest(CAST(:ids AS bigint[]), CAST(:nonces AS bigint[]), CAST(:new_tags AS bigint[]),
            CAST(:hashes AS bigint[])) AS r(id, nonce, new_tag, hash)""",
        "sqlite": """(SELECT value ->> 0 AS id, value ->> 1 AS nonce, value ->> 2 AS new_tag, value ->> 3 AS hash
            FROM json_each(:rows)) AS r""",
    },
)
"""New rows with the content of old ones. A plan's key for a row is taken once, and what a plan made is none
of its rows, so that a plan that was interrupted can be given again."""

CALL_AGAIN = _both(
    """
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT outbox.id, outbox.interaction_id, {now} FROM outbox JOIN {planned} ON {as_planned}
    WHERE outbox.state = 'sent'
    ON CONFLICT (row_id) DO UPDATE SET state = 'due', attempts = 0, due_at = {now}, claimed_by = NULL, error = NULL
    WHERE outbox_inference_call.state <> 'due' RETURNING row_id
    """.replace("{as_planned}", _AS_PLANNED),
    planned=_PLANNED,
)
RETRY_CALLS = _both(
    """
    UPDATE outbox_inference_call SET state = 'due', attempts = 0, due_at = {now}, claimed_by = NULL, error = NULL
    FROM {planned} JOIN outbox ON outbox.id = r.id AND outbox.nonce = r.nonce
    WHERE outbox_inference_call.row_id = r.id AND outbox_inference_call.state = 'parked'
      AND outbox_inference_call.due_at = r.changed_at
    RETURNING row_id
    """,
    planned=_PLANNED,
)

# Pruning -------------------------------------------------------------------------------------------

_OLD = "coalesce({row}.sent_at, {row}.changed_at, {row}.received_at) < :before"
PRUNABLE = statement(f"""
    SELECT o.id, o.nonce, coalesce(o.changed_at, 0), o.received_at < :before AS old,
           {_SETTLED.replace("{row}", "o")} AND {_OLD.replace("{row}", "o")} AND NOT EXISTS (
               SELECT 1 FROM outbox_shard AS s WHERE s.shard = o.shard AND s.condition LIKE '{KAFKA_WENT_BACK}%'
           ) AS prunable
    FROM outbox AS o WHERE o.id > :after ORDER BY o.id LIMIT :limit
""")
"""Of a shard that waits because Kafka went back, none: they may be all that is left of what it has lost."""
PRUNING = 0x6F757462_6F780002
"""Advisory lock of pruning ("outbox", 2); any number that nothing else in the database uses."""
TRY_PRUNING = statement(f"SELECT pg_try_advisory_xact_lock({PRUNING})", sqlite="SELECT true")
AWAIT_PRUNING = statement(
    f"SELECT pg_advisory_xact_lock({PRUNING})",
    sqlite="SELECT 1",  # BEGIN IMMEDIATE has locked
)
PRUNE = _both(
    f"""
    DELETE FROM outbox WHERE id IN (SELECT r.id FROM {{planned}} WHERE {_AS_PLANNED}) AND {{among_taken}}
      AND {_SETTLED.replace("{row}", "outbox")} AND {_OLD.replace("{row}", "outbox")} RETURNING id
    """,
    planned=_PLANNED,
    among_taken={
        "postgresql": "outbox.id = ANY(CAST(:taken AS bigint[]))",
        "sqlite": "outbox.id IN (SELECT value FROM json_each(:taken))",
    },
)
"""After ``TAKE_ROWS``, as a statement of its own: it sees what those committed who held the rows before."""
PRUNE_CALLS = statement(
    postgresql="DELETE FROM outbox_inference_call WHERE row_id = ANY(CAST(:gone AS bigint[]))",
    sqlite="DELETE FROM outbox_inference_call WHERE row_id IN (SELECT value FROM json_each(:gone))",
)

# Audit ---------------------------------------------------------------------------------------------

AUDITING = 0x6F757462_6F780003
"""Advisory lock of the audit ("outbox", 3). A lock of the table would need the right to change entries."""
LOCK_AUDIT = statement(
    postgresql=f"SELECT pg_advisory_xact_lock({AUDITING})",
    sqlite="SELECT 1",  # BEGIN IMMEDIATE has locked
)
AUDIT_HEAD = statement("SELECT id, hash FROM outbox_audit ORDER BY id DESC LIMIT 1")
AUDIT_HASH = statement("SELECT hash FROM outbox_audit WHERE id = :id")
LAST_AUDIT = statement("SELECT hash FROM outbox_audit ORDER BY id DESC LIMIT 1")
ADD_AUDIT = statement("""
    INSERT INTO outbox_audit (at, actor, verb, filter, reason, row_ids, hash, os_user)
    VALUES (:at, :actor, :verb, :filter, :reason, :row_ids, :hash, :os_user)
""")
_AUDIT = """
    SELECT id, at, actor, verb, filter, reason, row_ids, hash, os_user FROM outbox_audit
    WHERE id > :after {concerning} ORDER BY id LIMIT :limit
"""
AUDIT = statement(_AUDIT.replace("{concerning}", ""))
AUDIT_OF_ROW = statement(
    postgresql=_AUDIT.replace("{concerning}", "AND CAST(row_ids AS jsonb) @> to_jsonb(CAST(:row_id AS bigint))"),
    sqlite=_AUDIT.replace("{concerning}", "AND :row_id IN (SELECT value FROM json_each(row_ids))"),
)
AUDIT_SPAN = statement("SELECT min(id), max(id), max(at) FROM outbox_audit WHERE verb = :verb")
CALLED_AGAIN = statement("SELECT row_ids FROM outbox_audit WHERE verb = :verb ORDER BY id")
