"""Changes of rows that are ready to be shown and applied: what each verb selects, changes and entails.

Replays are in ``planned_replay``, erasures in ``planned_erasure``. Nothing here asks, prints or applies.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from time import time

from outbox.errors import InvalidRequestError
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.commands import filter_arguments
from outbox.operators.plan import Plan
from outbox.operators.rows import NONE_GIVEN_UP, PARKED_CALLS_GIVEN_UP, FoundRow, PlannedRow, RowFilter
from outbox.states import RowState

ChangeRows = Callable[[Sequence[PlannedRow], AuditContext], list[int]]
"""Changes a chunk of planned rows with its audit entry, and returns the ids of the changed rows."""
Collect = Callable[[Iterable[FoundRow]], Plan]
"""Makes a plan of rows as they are found: ``Plan``, or a function that also shows progress or limits their number."""


class Verb(StrEnum):
    """What operators can do to rows; as a text, the command that does it."""

    RETRY = "retry"
    DISCARD = "discard"
    REPLAY = "replay"
    CALL_AGAIN = "replay --inference-only"
    RETRY_CALLS = "inference retry"
    ERASE = "erase"
    PRUNE = "prune"

    @property
    def command(self) -> str:
        """The command without its option."""
        return self.partition(" --")[0]


ACCEPTED_STATES = {
    Verb.RETRY: (RowState.PARKED,),
    Verb.DISCARD: (RowState.PARKED,),
    Verb.REPLAY: (RowState.SENT, RowState.DISCARDED),
    Verb.CALL_AGAIN: (RowState.SENT,),
    Verb.RETRY_CALLS: (RowState.PARKED,),
}
"""The states that a verb takes, the default first; of ``RETRY_CALLS``, those of the call. Other verbs take any."""


@dataclass(frozen=True)
class PlannedChange:
    """A change that is ready to be shown and applied.

    Attributes:
        verb: what is done to the rows.
        rows: the filter that selected them, for the audit.
        plan: the rows.
        apply: changes a chunk of them.
        consequences: what will happen, a sentence each.
        arguments: of the command that does the same, and continues a change that was interrupted.
        empty_reason: why the plan is empty, if it is.
    """

    verb: Verb
    rows: RowFilter
    plan: Plan
    apply: ChangeRows
    consequences: tuple[str, ...]
    arguments: tuple[str, ...]
    empty_reason: str = "no row matches"


def restrict(verb: Verb, rows: RowFilter) -> RowFilter:
    """Restrict a filter to the states that a verb takes.

    Raises:
        InvalidRequestError: the filter names another state.
    """
    states = ACCEPTED_STATES.get(verb)
    if states is None:
        return rows
    if rows.state is not None and rows.state not in states:
        taken = " or ".join(states)
        subject, kind = ("this command", "calls") if verb == Verb.RETRY_CALLS else (verb.command, "rows")
        raise InvalidRequestError(f"{subject} takes {taken} {kind} only, not {rows.state} ones")
    return replace(rows, state=rows.state or states[0].value)


def plan_retry(operations: Operations, rows: RowFilter, collect: Collect = Plan) -> PlannedChange:
    """Plan to send parked rows again.

    Raises:
        InvalidRequestError: the filter names another state.
    """
    consequence = "each is sent before the rows waiting behind it ({} now)"
    return _plan_parked(operations, Verb.RETRY, operations.retry, rows, consequence, collect)


def plan_discard(operations: Operations, rows: RowFilter, collect: Collect = Plan) -> PlannedChange:
    """Plan to give up parked rows.

    Raises:
        InvalidRequestError: the filter names another state.
    """
    consequence = "they are never sent; the rows waiting behind them ({} now) are"
    return _plan_parked(operations, Verb.DISCARD, operations.discard, rows, consequence, collect)


def _plan_parked(
    operations: Operations, verb: Verb, apply: ChangeRows, rows: RowFilter, consequence: str, collect: Collect
) -> PlannedChange:
    """Plan a change of parked rows; ``{}`` in its consequence stands for the number of rows behind them."""
    rows = restrict(verb, rows)
    arguments = (verb.command, *filter_arguments(until_now(rows)))
    plan = collect(operations.find(rows))
    behind = operations.count_blocked(rows) if plan else 0
    empty_reason = "" if plan else explain_empty(operations, rows, RowState.PARKED)
    return PlannedChange(verb, rows, plan, apply, (consequence.format(behind),), arguments, empty_reason)


def plan_retry_calls(operations: Operations, rows: RowFilter, collect: Collect = Plan) -> PlannedChange:
    """Plan to make parked inference calls again; the filter's error is that of the call.

    Raises:
        InvalidRequestError: the filter names another state than parked.
    """
    rows = restrict(Verb.RETRY_CALLS, rows)
    filters = filter_arguments(until_now(rows))
    return PlannedChange(
        Verb.RETRY_CALLS,
        rows,
        collect(operations.parked_calls(rows)),
        operations.retry_calls,
        ("the endpoint is called again for each, with the same Idempotency-Key",),
        ("inference", "retry", *filters),
        "no row matches whose inference call is parked",
    )


def plan_prune(
    operations: Operations,
    rows: RowFilter | None,
    retention_seconds: float | None,
    *,
    parked_calls: bool = False,
    collect: Collect = Plan,
) -> PlannedChange:
    """Plan to remove finished rows.

    Args:
        operations: on the outbox.
        rows: selects the rows; None: those that are finished for longer than the retention.
        retention_seconds: the value of ``OUTBOX_RETENTION``; None: it is off.
        parked_calls: also remove rows whose inference call is parked.
        collect: makes the plan.

    Raises:
        InvalidRequestError: neither rows nor a retention are given.
    """
    given_up = PARKED_CALLS_GIVEN_UP if parked_calls else NONE_GIVEN_UP
    filters = [] if rows is None else filter_arguments(until_now(rows))
    selected = _expired(retention_seconds) if rows is None else rows
    found = operations.prunable(selected, given_up)
    plan = collect(_finished_before(selected.until_ms or 0, found) if rows is None else found)
    return PlannedChange(
        Verb.PRUNE,
        selected,
        plan,
        lambda chunk, context: operations.prune(chunk, context, given_up),
        ("they are removed for good: a repeated delivery of one of them would become a new row",),
        ("prune", *filters, *(("--parked-calls",) if parked_calls else ())),
        "" if plan else explain_empty(operations, selected, "finished"),
    )


def _expired(retention_seconds: float | None) -> RowFilter:
    """Select the rows that are older than the retention."""
    if retention_seconds is None:
        raise InvalidRequestError(
            "OUTBOX_RETENTION is off: select rows by a filter, such as those received until 30d ago"
        )
    return RowFilter(until_ms=round((time() - retention_seconds) * 1000))


def _finished_before(time_ms: int, rows: Iterable[FoundRow]) -> Iterator[FoundRow]:
    """Yield rows whose last change was before a time: a row that was discarded recently can still be replayed."""
    return (row for row in rows if (row.sent_at_ms or row.changed_at_ms or row.received_at_ms) < time_ms)


def explain_empty(operations: Operations, rows: RowFilter, kind: str) -> str:
    """Say why there is nothing to change: rows named by id or interaction may be in another state.

    Args:
        operations: on the outbox.
        rows: what the operator selected.
        kind: the kind of rows that the verb changes, such as "parked".
    """
    is_specific = bool(rows.ids) or rows.interaction_id is not None
    states = Counter(row.state for row in operations.find(replace(rows, state=None))) if is_specific else None
    if not states:
        return "no row matches"
    return f"no {kind} row matches, only {', '.join(f'{count} {state}' for state, count in states.items())}"


def until_now(rows: RowFilter) -> RowFilter:
    """Exclude rows received from now on, so that the same rows are selected later."""
    if rows.ids or rows.until_ms is not None:
        return rows
    return replace(rows, until_ms=round(time() * 1000))
