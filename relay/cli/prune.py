"""``relay prune``: remove rows that are finished."""

import sys
from collections.abc import Callable
from time import time

import click

from outbox.operators.commands import filter_arguments
from outbox.operators.rows import NONE_GIVEN_UP, PARKED_CALLS_GIVEN_UP, FoundRow, RowFilter
from relay.cli.change import PlannedChange, explain_empty, find_rows, run_change, until_now
from relay.cli.options import ChangeOptions, RowSelection, change_options, row_filters
from relay.cli.session import audit_context, open_operations
from relay.operator_settings import OperatorSettings


@click.command()
@row_filters
@change_options
@click.option(
    "--parked-calls",
    is_flag=True,
    help="Also remove rows whose inference call is parked; the call can no longer be retried.",
)
def prune(*, selection: RowSelection, options: ChangeOptions, parked_calls: bool) -> None:
    """Remove finished rows.

    A row is finished when it is sent and its inference call is done, or when it is discarded. The relay
    removes finished rows after OUTBOX_RETENTION; without a filter, this command does the same now.

    \b
    Examples:
      relay prune --reason "disk is short"
      relay prune --until 2d --dry-run
    """
    given_up = PARKED_CALLS_GIVEN_UP if parked_calls else NONE_GIVEN_UP
    by_retention = selection.is_empty
    selected = None if by_retention else selection.require()
    with open_operations() as (operations, settings):
        rows = selected or _expired(settings)
        context = audit_context(options, settings, rows)
        found = operations.prunable(rows, given_up)
        plan = find_rows(filter(_finished_before(rows.until_ms or 0), found) if by_retention else found)
        filters = () if by_retention else filter_arguments(until_now(rows))
        change = PlannedChange(
            "prune",
            plan,
            lambda chunk: operations.prune(chunk, context, given_up),
            ("they are removed for good: a repeated delivery of one of them would become a new row",),
            ("prune", *filters, *(("--parked-calls",) if parked_calls else ())),
            "" if plan else explain_empty(operations, rows, "finished"),
        )
        sys.exit(run_change(change, options))


def _expired(settings: OperatorSettings) -> RowFilter:
    """Select the rows that are older than the retention."""
    if settings.outbox_retention is None:
        raise click.UsageError("OUTBOX_RETENTION is off: select rows by a filter such as --until 30d")
    return RowFilter(until_ms=round((time() - settings.outbox_retention) * 1000))


def _finished_before(time_ms: int) -> Callable[[FoundRow], bool]:
    """Return a test of a row's last change: a row that was discarded recently can still be replayed."""
    return lambda row: (row.sent_at_ms or row.changed_at_ms or row.received_at_ms) < time_ms
