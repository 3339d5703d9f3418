"""Many inference calls: memory while millions are due, and delivery after an outage."""

import time
from contextlib import suppress
from statistics import median
from typing import Any

import psutil
from sqlalchemy import Engine, text

from bench.drain import TIMEOUT_SECONDS, pending
from bench.environment import Environment, Outbox, fill
from bench.rows import CHUNK, add_history, vacuum
from bench.scoring import ScoringEndpoint
from outbox.db import transactions
from outbox.sql.inference_queue import BLOCKED_DELAY_MS
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until

CALLS_PER_INTERACTION = 3
OUTAGE_SECONDS = 10.0
SAMPLE_SECONDS = 0.5
CALLS_TIMEOUT_SECONDS = 3_600

CALLS = text(f"""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT id, interaction_id, :now + CASE WHEN nonce % :per_interaction = 1 THEN 0 ELSE {BLOCKED_DELAY_MS} END
    FROM outbox WHERE id BETWEEN :first AND :last
""")
"""Like marking sent rows: the first call of each interaction is due at once, those behind it later. Ids start at 1."""


def memory(environment: Environment, database: str, due: int, seconds: float) -> dict[str, Any]:
    """Return a relay's memory while many calls are due, first with the scoring endpoint down, then up."""
    scoring = ScoringEndpoint()
    with environment.outbox(database, 1) as outbox:
        _make_due(outbox.engine, due)
        process = environment.relay(with_inference(outbox, scoring.url).settings)
        try:
            process.wait_degraded("inference", "failing")
            down = _sample_memory(process, seconds)
            scoring.start()
            wait_until(lambda: scoring.counts()["keys"], "a call arrives", 120)  # type: ignore[index]
            up = _sample_memory(process, seconds)
            counts = scoring.counts()
        finally:
            process.stop()
            scoring.stop()
    return {"calls due": due, "MB, scoring down": down, "MB, scoring up": up, "requests meanwhile": counts}


def arrival(environment: Environment, database: str, count: int) -> dict[str, Any]:
    """Drain a backlog while the scoring endpoint is down, start it, and time the calls until all are done."""
    scoring = ScoringEndpoint()
    with environment.outbox(database, 1) as outbox:
        fill(outbox.engine, count)
        process = environment.relay(with_inference(outbox, scoring.url).settings)
        try:
            wait_until(lambda: not pending(outbox.engine), "all rows are in Kafka", TIMEOUT_SECONDS)
            time.sleep(OUTAGE_SECONDS)
            started = time.monotonic()
            scoring.start()
            wait_until(lambda: scoring.counts()["keys"], "the first call arrives", 120)  # type: ignore[index]
            first = time.monotonic()
            wait_until(lambda: calls_done(outbox.engine) == count, "every call is done", CALLS_TIMEOUT_SECONDS)
            seconds, counts = time.monotonic() - first, scoring.counts()
        finally:
            process.stop()
            scoring.stop()
    assert counts is not None
    assert counts["keys"] == count, counts
    return {**counts, "seconds to first call": round(first - started, 1), "calls/s": round(counts["calls"] / seconds)}


def with_inference(outbox: Outbox, url: str) -> Outbox:
    """Return the outbox with settings that send inference calls to a URL."""
    return outbox._replace(settings={**outbox.settings, "INFERENCE_URL": url})


def calls_done(engine: Engine) -> int:
    """Return how many calls are done."""
    time.sleep(0.1)  # the caller polls, which must not use much CPU
    with transactions.read(engine) as connection:  # on SQLite readers and writers do not block each other
        query = text("SELECT count(*) FROM outbox_inference_call WHERE state = 'done'")
        return int(connection.execute(query).scalar_one())


def _make_due(engine: Engine, count: int) -> None:
    add_history(engine, count, per_interaction=CALLS_PER_INTERACTION)
    now = round(time.time() * 1000)
    for first in range(1, count + 1, CHUNK):
        with engine.begin() as connection:
            connection.execute(
                CALLS, {"first": first, "last": first + CHUNK - 1, "per_interaction": CALLS_PER_INTERACTION, "now": now}
            )
    vacuum(engine)


def _sample_memory(process: RelayProcess, seconds: float) -> dict[str, float]:
    """Return resident memory in MB: median of the first and the last fifth of the samples, and the peak."""
    samples, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(psutil.NoSuchProcess):
            samples.append(psutil.Process(process.pid).memory_info().rss / 2**20)
        time.sleep(SAMPLE_SECONDS)
    fifth = max(1, len(samples) // 5)
    first, last = median(samples[:fifth]), median(samples[-fifth:])
    return {"first": round(first), "last": round(last), "peak": round(max(samples)), "growth": round(last - first, 1)}
