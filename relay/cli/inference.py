"""``relay inference``: inference calls that the endpoint refused, or that failed too often."""

import sys

import click

from outbox.operators.planned_change import Verb, plan_retry_calls, restrict
from relay.cli.change import find_rows, run_change
from relay.cli.command_group import Group
from relay.cli.errors import usage_errors
from relay.cli.options import JSON, ChangeOptions, RowSelection, change_options, row_filters
from relay.cli.output import format_rows, print_lines
from relay.cli.session import audit_context, open_operations


@click.group(cls=Group)
def inference() -> None:
    """List and retry parked inference calls.

    The endpoint refused them, or they failed too often. Here --error matches the error of the call.
    """


@inference.command("list")
@row_filters
@JSON
@usage_errors()
def list_calls(*, selection: RowSelection, json_lines: bool) -> None:
    """List rows whose inference call is parked.

    Each row is shown with the error of its call.

    \b
    Examples:
      relay inference list --all
      relay inference list --error "HTTP 422" --since 1d --json
    """
    rows = restrict(Verb.RETRY_CALLS, selection.require())
    with open_operations() as (operations, _):
        lines = format_rows(operations.parked_calls(rows), json_lines=json_lines)
        print_lines(lines, "inference list: no parked call matches")


@inference.command("retry")
@row_filters
@change_options
@usage_errors()
def retry_calls(*, selection: RowSelection, options: ChangeOptions) -> None:
    """Call the inference endpoint again for parked calls.

    Each call becomes due, with all its attempts ahead of it.

    \b
    Examples:
      relay inference retry --error "HTTP 422" --reason "model 7 takes these"
      relay inference retry --since 2h --dry-run
    """
    rows = restrict(Verb.RETRY_CALLS, selection.require())
    with open_operations() as (operations, settings):
        context = audit_context(options, settings)
        sys.exit(run_change(plan_retry_calls(operations, rows, find_rows), options, context))
