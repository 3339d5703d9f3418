"""Counting the backlog on both databases, at a cost that does not follow history."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from outbox.backlog import Backlog, count_backlog
from outbox.db.engine import create_outbox_engine
from outbox.leases import Leases
from outbox.sql import backlog as sql
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.outbox import set_state
from testkit.rows import new_rows


@pytest.fixture
def four_shards(new_database: NewDatabase) -> Iterator[Engine]:
    """Return an engine on an outbox with four shards."""
    engine = create_outbox_engine(new_database(4))
    yield engine
    engine.dispose()


def execute(engine: Engine, *statements: str) -> None:
    """Change the database directly."""
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_an_empty_outbox_has_no_backlog(four_shards: Engine) -> None:
    """All counts are zero, and no shard is owned."""
    counted = count_backlog(four_shards)
    assert counted._replace(clock_offset_seconds=0) == Backlog(
        0, 0, 0, 0, 0, 0, unowned=4, paused=0, clock_offset_seconds=0
    )
    assert abs(counted.clock_offset_seconds) < 1, "it runs on the same machine"


def test_rows_calls_and_shards_are_counted_by_state(four_shards: Engine) -> None:
    """A shard counts once: as paused, whoever owns it; else as owned until its lease expires; else as unowned."""
    Store(four_shards).record(new_rows(20))
    Leases(four_shards, "a", 600).take(0)
    Leases(four_shards, "a", 600).take(1)
    Leases(four_shards, "a", 600).take(2)
    set_state(four_shards, "id <= 3", "parked")
    set_state(four_shards, "id = 4", "discarded")
    set_state(four_shards, "id BETWEEN 5 AND 8", "sent")
    execute(
        four_shards,
        "UPDATE outbox SET received_at = received_at - 90000 WHERE id = 20",
        "UPDATE outbox_shard SET lease_expires_at = 1 WHERE shard = 2",
        "INSERT INTO outbox_pause (shard, actor, reason) VALUES (1, 'ann', 'drill')",
        "INSERT INTO outbox_pause (shard, actor, reason, until) VALUES (3, 'ann', 'over', 1)",
        "INSERT INTO outbox_inference_call (row_id, interaction_id, due_at) VALUES (5, 'i', 1), (6, 'i', 1)",
        "INSERT INTO outbox_inference_call (row_id, interaction_id, due_at) VALUES (7, 'i', 1)",
        "UPDATE outbox_inference_call SET state = 'parked', error = 'x' WHERE row_id = 7",
        "INSERT INTO outbox_inference_call (row_id, interaction_id, due_at, state) VALUES (8, 'i', 1, 'done')",
    )
    counted = count_backlog(four_shards)
    counted = counted._replace(oldest_age_ms=0, clock_offset_seconds=0)
    assert counted == Backlog(12, 3, 0, 2, 1, owned=1, unowned=2, paused=1, clock_offset_seconds=0)


def test_the_age_is_that_of_the_oldest_row(four_shards: Engine) -> None:
    """A shard's first pending row is its oldest; the oldest of all shards counts."""
    Store(four_shards).record(new_rows(20))
    assert 0 <= count_backlog(four_shards).oldest_age_ms < 60_000
    execute(four_shards, "UPDATE outbox SET received_at = received_at - 3600000 WHERE id = 1")
    assert 3_600_000 <= count_backlog(four_shards).oldest_age_ms < 3_660_000


def test_sent_rows_are_never_read(four_shards: Engine) -> None:
    """Only the table of pending rows is scanned, even if statistics say that nearly all rows are pending."""
    Store(four_shards).record(new_rows(500))
    execute(four_shards, "ANALYZE")
    set_state(four_shards, "id > 1", "sent")
    plan = explain(four_shards)
    assert [table for table in ("outbox_pending", "outbox_parked") if table not in "\n".join(plan)] == [], plan
    assert [line for line in plan if "outbox_sent" in line or "Seq Scan on outbox " in line] == [], plan
    assert [line for line in plan if re.search(r"(SCAN|Seq Scan on) (outbox|o)\b(?!_)", line)] == [], plan


def explain(engine: Engine) -> list[str]:
    """Return the plan of the count."""
    word = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    with engine.begin() as connection:
        connection.execute(sql.PREFER_INDEX_SCANS.on(connection))
        statement: Any = text(f"{word} {sql.BACKLOG.on(connection).text}")
        return [str(row[-1]) for row in connection.execute(statement, {"limit": 1_000_000})]
