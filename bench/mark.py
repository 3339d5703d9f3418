"""Mark: what the database spends on a row, without a relay and without Kafka.

A backlog is inserted, selected and marked in batches through ``Store``, and as many of the oldest rows are pruned as by
a relay, by one session, with histories of different length in alternation. On PostgreSQL the CPU time is that of the
session's server process, so other load on the machine hardly matters; the write-ahead log is the server's, so nothing
else should write. On SQLite the database works within this process, whose CPU time includes the product's own.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from bench.environment import BATCH, Environment, Outbox, fill
from bench.growth import by_history
from bench.report import spread
from bench.rows import vacuum
from outbox.leases import Leases
from outbox.models import Lease, RecordRef
from outbox.operators.prune import old_rows, prune_rows
from outbox.store import Store

LEASE_SECONDS = 3_600
SESSION = text("SELECT pg_backend_pid(), pg_current_wal_insert_lsn() - '0/0'")
"""The process id of the session's server process, and the position in the write-ahead log."""

SIZE = {
    "postgresql": text("SELECT pg_total_relation_size('outbox') + pg_total_relation_size('outbox_sent')"),
    "sqlite": text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"),
}
"""Bytes on disk: of the tables that keep a sent row, with their indexes; on SQLite of the file."""

Usage = Counter[str]
"""What was used so far: CPU in microseconds, and bytes of write-ahead log."""


def measure(
    environment: Environment, database: str, count: int, history: list[int], rounds: int, shards: int
) -> dict[str, Any]:
    """Return the cost per row of insert, select, mark and prune for each length of history."""
    figures = by_history(environment, database, shards, history, rounds, lambda outbox: _round(outbox, count))
    return {
        f"{size:,} rows of history": {name: spread(values, 1) for name, values in measured.items()}
        for size, measured in figures.items()
    }


def _round(outbox: Outbox, count: int) -> dict[str, float]:
    engine = outbox.engine
    size, before = _size(engine), _used(engine)
    fill(engine, count)
    steps = {"insert": _used(engine) - before, "select": Usage(), "mark": Usage()}
    vacuum(engine)
    leases = Leases(engine, "bench", LEASE_SECONDS)
    for shard in range(outbox.shards):
        lease = leases.take(shard)
        assert lease is not None
        _send(engine, lease, steps)
    stored = _size(engine) - size
    steps["prune"] = _prune(engine, count)
    figures = {
        f"{step}, {name} per row": value / count for step, used in steps.items() for name, value in sorted(used.items())
    }
    return {**figures, "bytes on disk per row": stored / count}


def _send(engine: Engine, lease: Lease, steps: dict[str, Usage]) -> None:
    """Select and mark all rows of a shard."""
    store = Store(engine)
    while True:
        before = _used(engine)
        rows = store.pending(lease, BATCH)
        selected = _used(engine)
        if not rows:
            return
        steps["select"] += selected - before
        sequence = lease.acknowledged_sequence + 1
        store.mark_sent(lease, RecordRef(sequence, sequence, "digest"), [row.ref for row in rows], inference=False)
        steps["mark"] += _used(engine) - selected
        lease = lease._replace(acknowledged_sequence=sequence)


def _prune(engine: Engine, count: int) -> Usage:
    """Prune this many of the oldest rows, and return what that took."""
    before, left = _used(engine), count
    for rows in old_rows(engine, -1):
        left -= prune_rows(engine, rows[:left]) or 0
        if not left:
            break
    return _used(engine) - before


def _size(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(SIZE[engine.dialect.name]).scalar_one())


def _used(engine: Engine) -> Usage:
    if engine.dialect.name == "sqlite":
        return Usage({"CPU us": time.process_time_ns() // 1000})
    with engine.connect() as connection:
        pid, position = connection.execute(SESSION).one()
    nanoseconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return Usage({"CPU us": nanoseconds // 1000, "WAL bytes": int(position)})
