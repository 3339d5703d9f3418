"""``relay prune``: remove rows that are finished."""

import sys

import click

from outbox.operators.planned_change import plan_prune
from relay.cli.change import find_rows, run_change
from relay.cli.errors import usage_errors
from relay.cli.options import ChangeOptions, RowSelection, change_options, row_filters
from relay.cli.session import audit_context, open_operations


@click.command()
@row_filters
@change_options
@click.option(
    "--parked-calls",
    is_flag=True,
    help="Also remove rows whose inference call is parked; the call can no longer be retried.",
)
@usage_errors()
def prune(*, selection: RowSelection, options: ChangeOptions, parked_calls: bool) -> None:
    """Remove finished rows.

    A row is finished when it is sent and its inference call is done, or when it is discarded. The relay
    removes finished rows after OUTBOX_RETENTION; without a filter, this command does the same now.

    \b
    Examples:
      relay prune --reason "disk is short"
      relay prune --until 2d --dry-run
    """
    rows = None if selection.is_empty else selection.require()
    with open_operations() as (operations, settings):
        context = audit_context(options, settings)
        retention = settings.outbox_retention
        change = plan_prune(operations, rows, retention, parked_calls=parked_calls, collect=find_rows)
        sys.exit(run_change(change, options, context))
