"""SQLite collects no statistics here, so its plans are always these: each statement reads little more than it needs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from outbox.db.engine import create_outbox_engine
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.pages import PageReader
from outbox.operators.prune import old_rows
from outbox.operators.row_history import RowHistories
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit.databases import migrate
from testkit.outbox import park, planned, record
from testkit.rows import new_rows

ALL_PENDING = "SEARCH w USING PRIMARY KEY (shard=?)"
"""Reads the pending rows of a shard, from the first one."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Return an engine on an outbox with pending and parked rows."""
    url = f"sqlite:///{tmp_path}/outbox.db"
    migrate(url, 1)
    engine = create_outbox_engine(url)
    ids = record(Store(engine), new_rows(20))
    park(Store(engine), engine, {ids[0]: "refused"})
    yield engine
    engine.dispose()


def steps_of(engine: Engine, call: Callable[[], object]) -> list[str]:
    """Return the steps of the plans of all statements that a call runs."""
    steps: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.split(maxsplit=1)[0] in ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE"):
            plan = cursor.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps.extend(detail for *_, detail in plan)

    event.listen(engine, "before_cursor_execute", explain)
    call()
    event.remove(engine, "before_cursor_execute", explain)
    return steps


def test_parking_looks_rows_up(engine: Engine) -> None:
    """Parking a row does not read the other pending rows. Selecting them, as a relay does before, reads them once."""
    steps = steps_of(engine, lambda: park(Store(engine), engine, {2: "refused"}))
    assert "SEARCH w USING PRIMARY KEY (shard=? AND id=?)" in steps
    assert steps.count(ALL_PENDING) == 1, steps


def test_rows_behind_parked_ones_are_found_by_interaction(engine: Engine) -> None:
    """Counting them does not read the pending rows for every parked one; ``status`` reads the oldest of each shard."""
    assert steps_of(engine, Store(engine).status).count(ALL_PENDING) == 1
    steps = steps_of(engine, lambda: Operations(engine).count_blocked(RowFilter()))
    assert [step for step in steps if "(shard=? AND id>?)" in step or step == ALL_PENDING] == []


@pytest.mark.parametrize("wanted", [RowFilter(), RowFilter(state="sent"), RowFilter(state="pending")], ids=str)
def test_pages_are_read_in_order(engine: Engine, wanted: RowFilter) -> None:
    """A page of rows ends the search: no rows beyond it are read to sort them."""
    steps = steps_of(engine, lambda: list(Operations(engine).find(wanted)))
    assert [step for step in steps if "ORDER BY" in step] == []


def test_pruning_reads_pages_in_order(engine: Engine) -> None:
    """The pruner's page of the oldest rows does not sort all of history."""
    steps = steps_of(engine, lambda: next(old_rows(engine, 0)))
    assert [step for step in steps if "ORDER BY" in step] == []


@pytest.mark.parametrize(
    "wanted", [RowFilter(interaction_id="i-1", state="pending"), RowFilter(ids=(1, 2), state="pending")], ids=str
)
def test_a_state_does_not_widen_a_search(engine: Engine, wanted: RowFilter) -> None:
    """Rows that are found by interaction or id have their state checked; the rows of the state are not scanned."""
    steps = steps_of(engine, lambda: list(Operations(engine).find(wanted)))
    assert [step for step in steps if step.startswith("SCAN w")] == []


@pytest.mark.parametrize(
    "wanted", [RowFilter(), RowFilter(state="sent"), RowFilter(state="pending"), RowFilter(state="parked")], ids=str
)
def test_pages_are_read_down_in_order(engine: Engine, wanted: RowFilter) -> None:
    """A page of the newest rows ends the search: no rows below it are read to sort them."""
    steps = steps_of(engine, lambda: PageReader(engine).rows(wanted))
    assert [step for step in steps if "ORDER BY" in step] == [], steps


def test_rows_of_an_interaction_are_looked_up(engine: Engine) -> None:
    """The rest of history is not read, however few rows the interaction has."""
    steps = steps_of(engine, lambda: PageReader(engine).rows(RowFilter(interaction_id="i-1")))
    assert "SEARCH o USING INDEX ix_outbox_interaction (interaction_id=?)" in steps, steps


@pytest.mark.parametrize("state", ["pending", "parked", "a replay"])
def test_the_history_of_a_row_is_looked_up(engine: Engine, state: str) -> None:
    """It reads neither all rows nor the rest of the audit log."""
    operations = Operations(engine)
    operations.discard(planned(operations, ids=(1,)), AuditContext("ann", "a test", RowFilter()))
    operations.replay("plan", planned(operations, ids=(1,)), AuditContext("ann", "a test", RowFilter()))
    park(Store(engine), engine, {2: "refused"})
    (replayed, *_) = [row for row in operations.find(RowFilter()) if row.replay_of == 1]
    row_id = {"pending": 3, "parked": 2, "a replay": replayed.id}[state]
    steps = steps_of(engine, lambda: RowHistories(engine).get(row_id))
    scans = [step for step in steps if step.startswith("SCAN")]
    assert set(scans) <= {"SCAN outbox_identity", "SCAN down", "SCAN up"}, steps
    assert "SEARCH r USING PRIMARY KEY (row_id=? AND entry_id>?)" in steps, steps
    assert "SEARCH a USING INTEGER PRIMARY KEY (rowid=?)" in steps, steps
