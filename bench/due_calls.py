"""Inference calls in great number: memory while millions are due, and how they arrive after an outage."""

import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import psutil
from sqlalchemy import Engine, text

from bench.scoring import Scoring
from outbox.call_statements import BEHIND_MS
from outbox.engine import create_outbox_engine
from outbox.store import Store
from tests.relay_process import RelayProcess
from tests.support import wait_until

CHUNK = 50_000
OUTAGE_SECONDS = 10.0
SAMPLE_SECONDS = 0.5
PATIENCE_SECONDS = 3_600

_NUMBERS = """
    WITH RECURSIVE numbers(n) AS (SELECT CAST(:first AS bigint) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
"""
ROWS = text(f"""
    INSERT INTO outbox (tag, key, shard, interaction_id, channel, timestamp_ms, payload, state, received_at, sent_at,
                        sequence)
    {_NUMBERS} SELECT n, 'key:' || n, 0, 'i-' || (n / 3), 'voice', n, :payload, 'sent', :now, :now, 1 FROM numbers
""")
CALLS = text(f"""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT id, interaction_id, :now + CASE WHEN tag % 3 = 0 THEN 0 ELSE {BEHIND_MS} END
    FROM outbox WHERE id BETWEEN :first + 1 AND :last + 1
""")
"""As the mark of sent rows makes them due: the first of each interaction at once, those behind it later. The ids of a
fresh table begin at 1."""

Relay = Callable[[str, str], RelayProcess]
"""Starts a relay on a database, with the URL of its inference."""


def memory(url: str, relay: Relay, due: int, seconds: float) -> dict[str, Any]:
    """A relay's memory while so many calls are due: first with scoring down, then with scoring up."""
    engine = create_outbox_engine(url)
    _make_due(engine, due)
    scoring = Scoring()
    process = relay(url, scoring.url)
    try:
        process.wait_degraded("inference", "fails")
        down = _sampled(process, seconds)
        scoring.start()
        wait_until(lambda: scoring.counts()["keys"], "calls are made", 120)  # type: ignore[index]
        up = _sampled(process, seconds)
        told = scoring.counts()
    finally:
        process.stop()
        scoring.stop()
        engine.dispose()
    return {"calls due": due, "MB, scoring down": down, "MB, scoring up": up, "meanwhile": told}


def arrival(url: str, relay: Relay, rows: list[Any], batch: int) -> dict[str, Any]:
    """A backlog is drained while scoring is down; scoring comes back, and every call arrives."""
    engine, scoring = create_outbox_engine(url), Scoring()
    for start in range(0, len(rows), batch):
        Store(engine).record(rows[start : start + batch])
    process = relay(url, scoring.url)
    try:
        wait_until(lambda: not _pending(engine), "all rows are in Kafka", PATIENCE_SECONDS)
        time.sleep(OUTAGE_SECONDS)
        back = time.monotonic()
        scoring.start()
        wait_until(lambda: scoring.counts()["keys"], "the first call comes", 120)  # type: ignore[index]
        first = time.monotonic()
        wait_until(lambda: _unfinished(engine) == 0, "every call is done", PATIENCE_SECONDS)
        seconds, counts = time.monotonic() - first, scoring.counts()
    finally:
        process.stop()
        scoring.stop()
        engine.dispose()
    assert counts is not None
    assert counts["keys"] == len(rows), counts
    return {**counts, "seconds to the first": round(first - back, 1), "calls/s": round(counts["calls"] / seconds)}


def _make_due(engine: Engine, count: int) -> None:
    now = round(time.time() * 1000)
    for first in range(0, count, CHUNK):
        span = {"first": first, "last": min(first + CHUNK, count) - 1, "now": now}
        with engine.begin() as connection:
            connection.execute(ROWS, {**span, "payload": b'{"id": "x", "channel": "voice"}'})
            connection.execute(CALLS, span)
    with engine.begin() as connection:  # as autovacuum does in time
        connection.exec_driver_sql("ANALYZE outbox" if engine.dialect.name == "postgresql" else "ANALYZE")


def _sampled(process: RelayProcess, seconds: float) -> dict[str, float]:
    """Resident memory in MB: of the first fifth, the last fifth, and at most."""
    samples, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(psutil.NoSuchProcess):
            samples.append(psutil.Process(process.pid).memory_info().rss / 2**20)
        time.sleep(SAMPLE_SECONDS)
    fifth = max(1, len(samples) // 5)
    first, last = median(samples[:fifth]), median(samples[-fifth:])
    return {"first": round(first), "last": round(last), "peak": round(max(samples)), "growth": round(last - first, 1)}


def _pending(engine: Engine) -> int:
    return sum(shard.pending for shard in Store(engine).status())


def _unfinished(engine: Engine) -> int:
    time.sleep(0.2)  # asking is not to be what is measured
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM outbox_inference_call WHERE state <> 'done'")
        return int(connection.execute(query).scalar_one())
