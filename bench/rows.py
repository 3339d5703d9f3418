"""Create millions of rows in minutes, with SQL that generates them in the database."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, text

from bench.environment import Outbox
from outbox import notifications
from outbox.db.engine import AUTOCOMMIT
from outbox.partitioner import interaction_hash
from outbox.sql.statement import Statement, bind_numbers, statement

CHUNK = 500_000
"""Rows per transaction."""
DAY_MS = 86_400_000
INTERACTIONS = 10_000
"""Number of interactions of a backlog."""
PAYLOAD = (
    '{"id": "i-1000", "channel": "voice", "customer": {"email": "someone@example.com"}, "agent": {"id": "agent-7"},'
    ' "timestamp": 1700000000000, "skill": "billing", "queue": "first-level", "duration": 184}'
)

INSERT = statement(
    postgresql="""
    INSERT INTO outbox (nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id,
                        payload, received_at)
    SELECT :before + r.n, sha256(uuid_send(gen_random_uuid())), r.hash,
           :prefix || ((:before + r.n - 1) / :per_interaction % :interactions), 'voice', :before + r.n,
           'someone@example.com', 'agent-7', CAST(:payload AS bytea), :at + (:before + r.n) * :interval
    FROM unnest(CAST(:hashes AS integer[])) WITH ORDINALITY AS r(hash, n) ORDER BY r.n
    """,
    sqlite="""
    INSERT INTO outbox (nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id,
                        payload, received_at)
    SELECT :before + r.key + 1, randomblob(32), r.value,
           :prefix || ((:before + r.key) / :per_interaction % :interactions), 'voice', :before + r.key + 1,
           'someone@example.com', 'agent-7', CAST(:payload AS BLOB), :at + (:before + r.key + 1) * :interval
    FROM json_each(:hashes) AS r
    """,
)
"""Inserts a row for each hash of an interaction id: the database cannot compute them. A trigger of SQLite makes the
rows pending."""
MAKE_PENDING = statement(
    postgresql="""
    INSERT INTO outbox_pending (shard, id, nonce)
    SELECT mod(o.interaction_hash, i.shards), o.id, o.nonce
    FROM outbox AS o, outbox_identity AS i WHERE o.id > :after
    """,
    sqlite="SELECT 1",
)
MAKE_SENT = statement("""
    INSERT INTO outbox_sent (id, shard, sequence, sent_at)
    SELECT o.id, o.interaction_hash % i.shards, 0, o.received_at
    FROM outbox AS o, outbox_identity AS i WHERE o.id > :after
""")
REMOVE_SENT_FROM_PENDING = statement(postgresql="SELECT 1", sqlite="DELETE FROM outbox_pending WHERE id > :after")
LARGE_TABLES = "outbox, outbox_pending, outbox_sent, outbox_inference_call, outbox_audit, outbox_audit_row"
LAST_ID = text("SELECT coalesce(max(id), 0) FROM outbox")


def add_history(
    engine: Engine, count: int, per_interaction: int = 1, began_ms: int | None = None, interval_ms: int = 0
) -> None:
    """Add rows that were sent when they were received.

    Args:
        engine: of the outbox.
        count: number of rows, which also number their nonces, from 1.
        per_interaction: how many consecutive rows belong to an interaction: ``h-0``, ``h-1`` and so on.
        began_ms: when row 0 would have been received; None for a day ago, so that no relay prunes the rows yet.
        interval_ms: time between the receipt of two rows.
    """
    values = {
        "prefix": "h-",
        "per_interaction": per_interaction,
        "interactions": count + 1,
        "at": round(time.time() * 1000) - DAY_MS if began_ms is None else began_ms,
        "interval": interval_ms,
    }
    _add(engine, count, values, (MAKE_SENT, REMOVE_SENT_FROM_PENDING))
    vacuum(engine)


def add_backlog(engine: Engine, count: int) -> None:
    """Add pending rows; up to ``CHUNK`` of them become visible at once."""
    values = {
        "prefix": "i-",
        "per_interaction": 1,
        "interactions": INTERACTIONS,
        "at": round(time.time() * 1000),
        "interval": 0,
    }
    _add(engine, count, values, (MAKE_PENDING,))


@contextmanager
def without_timeout(engine: Engine) -> Iterator[Connection]:
    """Run the block in one transaction whose statements may take any time."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        yield connection


def vacuum(engine: Engine) -> None:
    """Vacuum on PostgreSQL, as autovacuum would have if the rows had arrived one by one."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(**AUTOCOMMIT) as connection:
            connection.execute(text(f"VACUUM (ANALYZE) {LARGE_TABLES}"))


def commit_backlog(outbox: Outbox, count: int) -> None:
    """Commit a backlog of at most ``CHUNK`` rows at once, and notify running relays."""
    add_backlog(outbox.engine, count)
    notifications.notify(outbox.engine, (f"i-{number}" for number in range(INTERACTIONS)))


def _add(engine: Engine, count: int, values: dict[str, Any], placements: Sequence[Statement]) -> None:
    for before in range(0, count, CHUNK):
        size = min(CHUNK, count - before)
        hashes = [interaction_hash(_interaction(values, before + number)) for number in range(size)]
        with without_timeout(engine) as connection:
            after = {"after": connection.execute(LAST_ID).scalar_one()}
            span = {"before": before, "hashes": bind_numbers(connection, hashes)}
            connection.execute(INSERT.on(connection), {**values, **span, "payload": PAYLOAD.encode()})
            for placement in placements:
                connection.execute(placement.on(connection), after)


def _interaction(values: dict[str, Any], number: int) -> str:
    """Return the interaction of a row, as ``INSERT`` names it."""
    return f"{values['prefix']}{number // values['per_interaction'] % values['interactions']}"
