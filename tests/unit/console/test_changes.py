"""Changes in threads: how many run, how they end, and what is said when one cannot go on."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import monotonic

import pytest
from sqlalchemy import Engine

from console.changes import MAX_RUNNING, UNEXPECTED, Change, Changes, Confirmation
from console.planner import PlanRequest
from console.plans import KeptPlan, Owner
from outbox.db.engine import create_outbox_engine
from outbox.errors import InvalidRequestError, OutboxError
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.pages import PageReader
from outbox.operators.planned_change import ChangeRows, Verb, plan_retry
from outbox.operators.rows import PlannedRow, RowFilter
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.outbox import record, set_state
from testkit.rows import new_row
from testkit.waiting import wait_until

ANN = Confirmation("ann (console)", "why", None)


@pytest.fixture
def outbox(new_sqlite: NewDatabase) -> Iterator[Engine]:
    """Return an outbox with a parked row."""
    engine = create_outbox_engine(new_sqlite())
    record(Store(engine), [new_row()])
    set_state(engine, "id = 1", "parked")
    yield engine
    engine.dispose()


@pytest.fixture
def changes(outbox: Engine) -> Iterator[Changes]:
    """Return changes that all have ended after the test."""
    made = Changes(PageReader(outbox), monotonic)
    yield made
    wait_until(lambda: not made.running(), "all changes have ended")


def plan_of(outbox: Engine, apply: Callable[[ChangeRows], ChangeRows]) -> KeptPlan:
    """Return a plan of a retry whose application is replaced."""
    rows = RowFilter(state="parked")
    change = plan_retry(Operations(outbox), rows)
    return KeptPlan(PlanRequest(Verb.RETRY, rows, ""), replace(change, apply=apply(change.apply)), Owner("s", "ann"), 0)


def ended(changes: Changes, name: str, kept: KeptPlan) -> Change:
    """Start a change and wait until it has ended."""
    change = changes.start(name, lambda: kept, ANN, None)
    assert change is not None
    wait_until(lambda: change.outcome, "the change has ended")
    return change


def test_its_audit_entry_is_found(changes: Changes, outbox: Engine) -> None:
    """The entry says who, why and which row."""
    change = ended(changes, "c", plan_of(outbox, lambda apply: apply))
    assert change.outcome is not None
    assert (change.outcome.changed, change.outcome.skipped, change.outcome.stop_reason) == (1, 0, "")
    assert change.entry is not None
    assert (change.entry.actor, change.entry.reason, change.entry.row_ids) == ("ann (console)", "why", "[1]")


@pytest.mark.parametrize(
    ("error", "said"),
    [(OutboxError("the server is read-only"), "the server is read-only"), (ValueError("x"), UNEXPECTED)],
)
def test_an_error_is_said(changes: Changes, outbox: Engine, error: Exception, said: str) -> None:
    """The change ends, and its page can say why."""

    def fail(_rows: Sequence[PlannedRow], _context: AuditContext) -> list[int]:
        raise error

    change = ended(changes, "c", plan_of(outbox, lambda _apply: fail))
    assert change.outcome is not None
    assert change.outcome.stop_reason == said
    assert (change.outcome.changed, change.entry) == (0, None)


def test_few_run_at_once(changes: Changes, outbox: Engine) -> None:
    """One more is refused, and its plan is not taken; once another has ended it is accepted."""
    go_on = threading.Event()

    def wait(_rows: Sequence[PlannedRow], _context: AuditContext) -> list[int]:
        go_on.wait(60)
        return []

    kept = plan_of(outbox, lambda _apply: wait)
    for number in range(MAX_RUNNING):
        assert changes.start(str(number), lambda: kept, ANN, None) is not None
    taken: list[KeptPlan] = []
    with pytest.raises(InvalidRequestError, match="changes are running"):
        changes.start("more", lambda: taken.append(kept) or kept, ANN, None)  # type: ignore[func-returns-value]
    assert taken == []
    go_on.set()
    wait_until(lambda: not changes.running(), "they have ended")
    assert changes.start("more", lambda: kept, ANN, None) is not None


def test_a_confirmed_plan_is_not_taken_again(changes: Changes, outbox: Engine) -> None:
    """The same change is returned; of an unknown plan there is none."""
    kept = plan_of(outbox, lambda apply: apply)
    first = ended(changes, "c", kept)
    assert changes.start("c", lambda: kept, ANN, None) is first
    assert changes.start("other", lambda: None, ANN, None) is None
