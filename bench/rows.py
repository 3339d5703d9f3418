"""Create millions of rows in minutes, with SQL that generates them in the database."""

import time

from sqlalchemy import Connection, Engine, text

from bench.environment import Outbox
from outbox import notifications
from outbox.db.engine import AUTOCOMMIT
from outbox.models import shard_of

CHUNK = 500_000
"""Rows per transaction."""
DAY_MS = 86_400_000
INTERACTIONS = 10_000
"""Number of interactions of a backlog. The database cannot compute their shards, so a table maps them."""
PAYLOAD = (
    '{"id": "i-1000", "channel": "voice", "customer": {"email": "someone@example.com"}, "agent": {"id": "agent-7"},'
    ' "timestamp": 1700000000000, "skill": "billing", "queue": "first-level", "duration": 184}'
)

_NUMBERS = {
    "postgresql": "generate_series(CAST(:first AS bigint), :last) AS n(n)",
    "sqlite": """(WITH RECURSIVE c(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM c WHERE n < :last)
                  SELECT n FROM c) AS n""",
}
_HASH = {
    "postgresql": "replace(concat(gen_random_uuid(), gen_random_uuid()), '-', '')",
    "sqlite": "lower(hex(randomblob(32)))",
}
_ROWS = """
    INSERT INTO outbox (nonce, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
                        state, received_at, sent_at, sequence)
    SELECT n, 'body:' || {hash}, {shard}, {interaction}, 'voice', n, 'someone@example.com', 'agent-7',
           CAST(:payload AS {blob}), :state, :at, CAST(:sent_at AS bigint), CAST(:sequence AS bigint)
    FROM {numbers} {join}
"""


def add_history(engine: Engine, count: int, shards: int, per_interaction: int = 1) -> None:
    """Add rows that were sent a day ago, which no relay prunes yet."""
    then = round(time.time() * 1000) - DAY_MS
    values = {
        "shards": shards,
        "per_interaction": per_interaction,
        "state": "sent",
        "at": then,
        "sent_at": then,
        "sequence": 0,
    }
    _add(engine, count, values, shard="n % :shards", interaction="'h-' || ((n - 1) / :per_interaction)", join="")
    vacuum(engine)


def add_backlog(engine: Engine, count: int, shards: int) -> None:
    """Add pending rows; up to ``CHUNK`` of them become visible at once."""
    now = round(time.time() * 1000)
    values = {"interactions": INTERACTIONS, "state": "pending", "at": now, "sent_at": None, "sequence": None}
    join = "JOIN bench_interaction AS i ON i.number = n % :interactions"
    _add(engine, count, values, shard="i.shard", interaction="i.name", join=join, of_shards=shards)


def vacuum(engine: Engine) -> None:
    """Vacuum on PostgreSQL, as autovacuum would have if the rows had arrived one by one."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(**AUTOCOMMIT) as connection:
            connection.execute(text("VACUUM (ANALYZE) outbox, outbox_inference_call"))


def commit_backlog(outbox: Outbox, count: int) -> None:
    """Commit a backlog of at most ``CHUNK`` rows at once, and notify running relays."""
    add_backlog(outbox.engine, count, outbox.shards)
    notifications.notify(outbox.engine, (f"i-{number}" for number in range(INTERACTIONS)))


def _add(engine: Engine, count: int, values: dict[str, object], of_shards: int = 0, **parts: str) -> None:
    dialect = engine.dialect.name
    blob = "bytea" if dialect == "postgresql" else "BLOB"
    statement = text(_ROWS.format(hash=_HASH[dialect], numbers=_NUMBERS[dialect], blob=blob, **parts))
    payload = PAYLOAD.encode() if dialect == "postgresql" else PAYLOAD
    for start in range(0, count, CHUNK):
        with engine.begin() as connection:
            if dialect == "postgresql":
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            if of_shards:
                _name_interactions(connection, of_shards)
            span = {"first": start + 1, "last": min(start + CHUNK, count)}
            connection.execute(statement, {**values, **span, "payload": payload})
            if of_shards:
                connection.execute(text("DROP TABLE bench_interaction"))


def _name_interactions(connection: Connection, shards: int) -> None:
    connection.execute(
        text("CREATE TEMPORARY TABLE bench_interaction (number bigint PRIMARY KEY, name text, shard int)")
    )
    names = [f"i-{number}" for number in range(INTERACTIONS)]
    rows = [{"n": number, "name": name, "shard": shard_of(name, shards)} for number, name in enumerate(names)]
    connection.execute(text("INSERT INTO bench_interaction VALUES (:n, :name, :shard)"), rows)
