"""Growth: the same backlog drained in an empty outbox and in ones with much history, in turn."""

from typing import Any

from sqlalchemy import Engine, text

from bench.drain import drain
from bench.place import Place, fill
from bench.report import ratio, spread
from outbox.engine import create_outbox_engine

_NUMBERS = {
    "postgresql": "generate_series(1, :count) AS n(n)",
    "sqlite": "(WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < :count) SELECT n FROM c)",
}
_TEXT = {"postgresql": "md5(n::text)", "sqlite": "hex(randomblob(16))"}
_HISTORY = """
    INSERT INTO outbox (tag, key, shard, interaction_id, channel, timestamp_ms, customer_email, payload, state,
                        received_at, sent_at, sequence)
    SELECT n, 'history:' || {text} || n, n % :shards, 'h-' || n, 'voice', n, 'someone@example.com',
           CAST('{{"id": "history"}}' AS {blob}), 'sent', n, n, 0
    FROM {numbers}
"""
CHUNK = 500_000


def measure(place: Place, kind: str, count: int, history: list[int], rounds: int, shards: int) -> dict[str, Any]:
    """Rates by rows of history; ratios against the first."""
    rates: dict[int, list[float]] = {size: [] for size in history}
    memory: dict[int, float] = {}
    for _ in range(rounds):
        for size in history:
            url = place.make(kind, shards)
            engine = create_outbox_engine(url)
            add_history(engine, size, shards)
            fill(engine, count)
            rate, cost = drain(place, url, engine, count, shards)
            rates[size].append(rate)
            memory[size] = max(memory.get(size, 0.0), cost["relay memory MB"])
            engine.dispose()
    return {
        f"{size:,} rows of history": {
            "rows/s": spread(rates[size]),
            f"of that with {history[0]:,}": ratio(rates[size], rates[history[0]]),
            "relay memory MB": round(memory[size]),
        }
        for size in history
    }


def add_history(engine: Engine, count: int, shards: int) -> None:
    """Rows that were sent long ago."""
    dialect = engine.dialect.name
    blob = "bytea" if dialect == "postgresql" else "BLOB"
    statement = _HISTORY.format(numbers=_NUMBERS[dialect], text=_TEXT[dialect], blob=blob)
    statement = statement.replace("n::text", "CAST(n AS text)")
    for start in range(0, count, CHUNK):
        with engine.begin() as connection:
            if dialect == "postgresql":
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text(statement), {"count": min(CHUNK, count - start), "shards": shards})
