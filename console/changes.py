"""Confirmed plans: each is applied by a thread of its own, which can be followed and stopped."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import structlog

from config.logging import frames
from console.planner import PlanRequest
from console.plans import KeptPlan
from outbox.errors import InvalidRequestError, OutboxError
from outbox.operators.apply import Outcome, apply_change
from outbox.operators.audit import AuditContext, AuditEntry
from outbox.operators.commands import change_arguments
from outbox.operators.format import plural
from outbox.operators.pages import PageReader
from outbox.operators.planned_change import PlannedChange

log = structlog.get_logger(__name__)
MAX_RUNNING = 4
MAX_KEPT = 100
"""Changes that have ended and can still be shown; the audit log has all of them."""
UNEXPECTED = "an unexpected error ended it; the log says where. The audit log says which rows were changed"


class Confirmation(NamedTuple):
    """Who confirmed a plan, and how it is to be applied."""

    actor: str
    reason: str
    rate: int | None
    """Rows per second; None: as fast as possible."""


class Change:
    """A change that is applied, or was.

    Attributes:
        asked: what was planned.
        last_received_ms: when the newest of its rows was received.
        confirmation: who confirmed it.
        total: number of rows.
        sample: ids of its first rows.
        processed: rows that were changed or left alone.
        outcome: how it ended; None: it has not.
        entry: its newest audit entry, once it has ended; None: it has none.
    """

    def __init__(self, kept: KeptPlan, confirmation: Confirmation, now: float) -> None:
        plan = kept.change.plan
        self.asked: PlanRequest = kept.asked
        self.last_received_ms, self.confirmation = plan.last_received_ms, confirmation
        self.total, self.sample = len(plan), [row.id for row in plan.sample]
        self.arguments = (*kept.change.arguments, *change_arguments(confirmation.reason, rate=confirmation.rate))
        self.began, self.ended = now, 0.0
        self.processed = 0
        self.outcome: Outcome | None = None
        self.entry: AuditEntry | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """End it after the chunk in hand."""
        self._stop.set()

    def is_stopped(self) -> bool:
        """Whether it has to end: somebody stopped it, or the process ends."""
        return self._stop.is_set() or not threading.main_thread().is_alive()

    def wait(self, seconds: float) -> None:
        """Wait, or less if it is stopped."""
        self._stop.wait(seconds)

    def report(self, processed: int) -> None:
        """Note how far it is."""
        self.processed = processed

    def end(self, outcome: Outcome, entry: AuditEntry | None, now: float) -> None:
        """Note how it ended."""
        self.processed, self.entry, self.ended = outcome.processed, entry, now
        self.outcome = outcome

    def seconds(self, now: float) -> float:
        """Return how long it takes, or took."""
        return (self.ended if self.outcome else now) - self.began


class Changes:
    """Applies confirmed plans. Threads may share it.

    Args:
        pages: finds the audit entries.
        clock: in seconds.
    """

    def __init__(self, pages: PageReader, clock: Callable[[], float]) -> None:
        self._pages, self.clock = pages, clock
        self._changes: dict[str, Change] = {}
        self._lock = threading.Lock()

    def find(self, change_id: str) -> Change | None:
        """Return a change; None: this process knows none with this id."""
        with self._lock:
            return self._changes.get(change_id)

    def running(self) -> dict[str, Change]:
        """Return those that have not ended, by id."""
        with self._lock:
            return {change_id: change for change_id, change in self._changes.items() if change.outcome is None}

    def start(
        self,
        change_id: str,
        take: Callable[[], KeptPlan | None],
        confirmation: Confirmation,
        pseudonym_key: bytes | None,
    ) -> Change | None:
        """Apply a plan, unless it was confirmed before; None: there is no such plan.

        Args:
            change_id: the plan's id.
            take: takes the plan.
            confirmation: who confirms it.
            pseudonym_key: of the audit log.

        Raises:
            InvalidRequestError: too many changes are running; the plan stays.
        """
        with self._lock:
            if change_id in self._changes:
                return self._changes[change_id]
            if sum(change.outcome is None for change in self._changes.values()) >= MAX_RUNNING:
                raise InvalidRequestError(f"{MAX_RUNNING} changes are running: wait for one, or stop one")
            kept = take()
            if kept is None:
                return None
            change = Change(kept, confirmation, self.clock())
            self._changes[change_id] = change
            self._forget_old()
        context = AuditContext(confirmation.actor, confirmation.reason, kept.change.rows, pseudonym_key)
        # Not a daemon: a process that ends waits for the chunk in hand.
        thread = threading.Thread(target=self._run, args=(change, kept.change, context), name="change")
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            change.end(Outcome(0, 0, "the console can start no thread: nothing was changed"), None, self.clock())
        return change

    def _run(self, change: Change, planned: PlannedChange, context: AuditContext) -> None:
        rate, entry = change.confirmation.rate, None
        try:
            outcome = apply_change(
                planned, context, rate=rate, stopped=change.is_stopped, report=change.report, wait=change.wait
            )
            with suppress(OutboxError):
                entry = self._last_entry(context) if outcome.changed else None
        except OutboxError as error:
            outcome = Outcome(0, 0, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the page has to say that it ended
            kind = type(error).__name__
            log.error("unexpected error in a change: %s", kind, action="unexpected", frames=frames(error))  # noqa: TRY400
            outcome = Outcome(change.processed, change.processed, UNEXPECTED)
        change.end(outcome, entry, self.clock())
        log.info(
            "%s of %s has ended",
            planned.verb,
            plural(change.total, "row"),
            action="change_ended",
            actor=change.confirmation.actor,
            changed=outcome.changed,
            skipped=outcome.skipped,
            stop_reason=outcome.stop_reason,
        )

    def _last_entry(self, context: AuditContext) -> AuditEntry | None:
        """Return the newest audit entry of a change, if nobody else has made dozens since."""
        entries = self._pages.audit().entries
        return next((one for one in entries if (one.actor, one.reason) == (context.actor, context.reason)), None)

    def _forget_old(self) -> None:
        ended = [change_id for change_id, change in self._changes.items() if change.outcome is not None]
        for change_id in ended[: max(0, len(ended) - MAX_KEPT)]:
            del self._changes[change_id]
