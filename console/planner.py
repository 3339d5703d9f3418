"""What a form asks for, and the plan of it: by the operations that the commands use."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from console.access import Role
from outbox.errors import InvalidRequestError
from outbox.operators.change import Operations
from outbox.operators.plan import Plan
from outbox.operators.planned_change import (
    PlannedChange,
    Verb,
    plan_discard,
    plan_prune,
    plan_retry,
    plan_retry_calls,
)
from outbox.operators.planned_erasure import plan_erase
from outbox.operators.planned_replay import plan_call_again, plan_replay
from outbox.operators.rows import FoundRow, RowFilter
from relay.operator_settings import OperatorSettings

MAX_ROWS = 1_000_000
MAX_AT_ONCE = 2
"""Plans made at the same time: each may read the whole outbox."""
CUSTODIANS_VERBS = frozenset({Verb.ERASE, Verb.PRUNE})
COUNTED_VERBS = frozenset({Verb.DISCARD, Verb.ERASE, Verb.PRUNE})
"""What cannot be taken back: whoever confirms types the number of rows."""


@dataclass(frozen=True)
class PlanRequest:
    """A change that somebody asks for."""

    verb: Verb
    rows: RowFilter
    name: str
    """Of a replay."""
    topic: str | None = None
    """Of a replay; None: the default topic."""
    parked_calls: bool = False
    """Whether to prune rows whose inference call is parked, too."""

    def until(self, at_ms: int) -> "PlanRequest":
        """Return the same without rows that arrived later, unless rows are named or the filter has an end."""
        if self.rows.ids or self.rows.until_ms is not None or self.verb in CUSTODIANS_VERBS:
            return self
        return replace(self, rows=replace(self.rows, until_ms=at_ms))


def role_for(verb: Verb) -> Role:
    """Return the role that a change needs."""
    return Role.CUSTODIAN if verb in CUSTODIANS_VERBS else Role.OPERATOR


class Planner:
    """Makes plans.

    Args:
        operations: on the outbox.
        settings: where replays may go, and how long rows are kept.
    """

    def __init__(self, operations: Operations, settings: OperatorSettings) -> None:
        self._operations, self._settings = operations, settings
        self._at_once = threading.BoundedSemaphore(MAX_AT_ONCE)

    def plan(self, asked: PlanRequest) -> PlannedChange:
        """Find the rows of a change and what it entails, without doing it.

        Raises:
            InvalidRequestError: it cannot be done to these rows, they are too many, or too many plans are being made.
        """
        if not self._at_once.acquire(blocking=False):
            raise InvalidRequestError("other plans are being made: try again in some seconds")
        try:
            return self._make(asked)
        finally:
            self._at_once.release()

    def _make(self, asked: PlanRequest) -> PlannedChange:
        operations, rows = self._operations, asked.rows
        match asked.verb:
            case Verb.REPLAY:
                allowed = self._settings.kafka_replay_topics
                return plan_replay(operations, rows, asked.name, asked.topic, allowed, collect)
            case Verb.CALL_AGAIN:
                return plan_call_again(operations, rows, asked.name, collect)
            case Verb.PRUNE:
                retention = self._settings.outbox_retention
                selected = None if rows == RowFilter() else rows
                return plan_prune(operations, selected, retention, parked_calls=asked.parked_calls, collect=collect)
            case _:
                return _PLANNERS[asked.verb](operations, rows, collect)


_PLANNERS: dict[Verb, Callable[[Operations, RowFilter, Callable[[Iterable[FoundRow]], Plan]], PlannedChange]] = {
    Verb.RETRY: plan_retry,
    Verb.DISCARD: plan_discard,
    Verb.RETRY_CALLS: plan_retry_calls,
    Verb.ERASE: plan_erase,
}


def collect(rows: Iterable[FoundRow]) -> Plan:
    """Make a plan of at most ``MAX_ROWS`` rows.

    Raises:
        InvalidRequestError: there are more.
    """
    return Plan(_bounded(rows))


def _bounded(rows: Iterable[FoundRow]) -> Iterator[FoundRow]:
    for count, row in enumerate(rows, 1):
        if count > MAX_ROWS:
            raise InvalidRequestError(f"more than {MAX_ROWS:,} rows: narrow the filter, or use the command line")
        yield row
