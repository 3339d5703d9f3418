"""Applying a planned change chunk by chunk, one transaction each, so that it can be slowed down and stopped."""

from collections.abc import Callable
from dataclasses import replace
from time import monotonic, sleep
from typing import NamedTuple

from outbox.errors import OutboxError
from outbox.operators.audit import AuditContext
from outbox.operators.planned_change import PlannedChange

CHUNK_ROWS = 500
MAX_WAIT_SECONDS = 0.1
"""How late a stop may be noticed while a rate slows a change down."""
INTERRUPTED = "interrupted"
"""The reason of a change that was stopped."""


class Outcome(NamedTuple):
    """How far a change got."""

    changed: int
    processed: int
    """Rows that were changed or skipped."""
    stop_reason: str
    """Why it ended early; empty if it did not."""

    @property
    def skipped(self) -> int:
        """Rows that somebody else had changed since the plan."""
        return self.processed - self.changed


def apply_change(
    change: PlannedChange,
    context: AuditContext,
    *,
    rate: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
    report: Callable[[int], None] = lambda _processed: None,
    clock: Callable[[], float] = monotonic,
    wait: Callable[[float], object] = sleep,
) -> Outcome:
    """Apply a planned change to its rows, until it is stopped or the database fails.

    Args:
        change: the plan, with the filter that the audit records.
        context: who makes it, and why.
        rate: rows per second; None: as fast as possible.
        stopped: whether to end before the next chunk.
        report: called after each chunk with the number of rows processed.
        clock: in seconds.
        wait: waits for a number of seconds, or less if the change is stopped meanwhile.

    Raises:
        OutboxError: the first chunk failed, so that nothing was changed.
    """
    changed, processed, started = 0, 0, clock()
    for chunk in change.plan.chunks(min(CHUNK_ROWS, rate or CHUNK_ROWS)):
        if stopped():
            return Outcome(changed, processed, INTERRUPTED)
        try:
            changed += len(change.apply(chunk, replace(context, rows=change.rows)))
        except OutboxError as error:
            if not processed:
                raise
            return Outcome(changed, processed, str(error))
        processed += len(chunk)
        report(processed)
        if rate and processed < len(change.plan):
            _wait_until(started + processed / rate, stopped, clock, wait)
    return Outcome(changed, processed, "")


def _wait_until(
    due: float, stopped: Callable[[], bool], clock: Callable[[], float], wait: Callable[[float], object]
) -> None:
    while (remaining := due - clock()) > 0 and not stopped():
        wait(min(MAX_WAIT_SECONDS, remaining))
