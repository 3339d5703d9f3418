"""Inference calls in great number: memory while millions are due, and how they arrive after an outage."""

import time
from contextlib import suppress
from statistics import median
from typing import Any

import psutil
from sqlalchemy import Engine, text

from bench.drain import PATIENCE_SECONDS, pending
from bench.environment import Environment, Outbox, fill
from bench.rows import CHUNK, add_history, age
from bench.scoring import Scoring
from outbox.db import transactions
from outbox.sql.inference_queue import BLOCKED_DELAY_MS
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until

OF_EACH = 3
"""Calls of an interaction."""
OUTAGE_SECONDS = 10.0
SAMPLE_SECONDS = 0.5
CALLS_PATIENCE_SECONDS = 3_600

CALLS = text(f"""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT id, interaction_id, :now + CASE WHEN nonce % :of_each = 1 THEN 0 ELSE {BLOCKED_DELAY_MS} END
    FROM outbox WHERE id BETWEEN :first AND :last
""")
"""As the mark of sent rows makes them due: the first of each interaction at once, those behind it later. The ids of a
fresh table begin at 1."""


def memory(place: Environment, kind: str, due: int, seconds: float) -> dict[str, Any]:
    """A relay's memory while so many calls are due: first with scoring down, then with scoring up."""
    scoring = Scoring()
    with place.outbox(kind, 1) as outbox:
        _make_due(outbox.engine, due)
        process = place.relay(with_inference(outbox, scoring.url).settings)
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
    return {"calls due": due, "MB, scoring down": down, "MB, scoring up": up, "meanwhile": told}


def arrival(place: Environment, kind: str, count: int) -> dict[str, Any]:
    """A backlog is drained while scoring is down; scoring comes back, and every call arrives."""
    scoring = Scoring()
    with place.outbox(kind, 1) as outbox:
        fill(outbox.engine, count)
        process = place.relay(with_inference(outbox, scoring.url).settings)
        try:
            wait_until(lambda: not pending(outbox.engine), "all rows are in Kafka", PATIENCE_SECONDS)
            time.sleep(OUTAGE_SECONDS)
            back = time.monotonic()
            scoring.start()
            wait_until(lambda: scoring.counts()["keys"], "the first call comes", 120)  # type: ignore[index]
            first = time.monotonic()
            wait_until(lambda: calls_done(outbox.engine) == count, "every call is done", CALLS_PATIENCE_SECONDS)
            seconds, counts = time.monotonic() - first, scoring.counts()
        finally:
            process.stop()
            scoring.stop()
    assert counts is not None
    assert counts["keys"] == count, counts
    return {**counts, "seconds to the first": round(first - back, 1), "calls/s": round(counts["calls"] / seconds)}


def with_inference(outbox: Outbox, url: str) -> Outbox:
    """The same outbox, whose relays make calls there."""
    return outbox._replace(settings={**outbox.settings, "INFERENCE_URL": url})


def calls_done(engine: Engine) -> int:
    """How many calls were made and answered so far."""
    time.sleep(0.1)  # asking is not to be what is measured
    with transactions.read(engine) as connection:  # which on SQLite waits for no writer, and holds none up
        query = text("SELECT count(*) FROM outbox_inference_call WHERE state = 'done'")
        return int(connection.execute(query).scalar_one())


def _make_due(engine: Engine, count: int) -> None:
    add_history(engine, count, shards=1, of_each=OF_EACH)
    now = round(time.time() * 1000)
    for first in range(1, count + 1, CHUNK):
        with engine.begin() as connection:
            connection.execute(CALLS, {"first": first, "last": first + CHUNK - 1, "of_each": OF_EACH, "now": now})
    age(engine)


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
