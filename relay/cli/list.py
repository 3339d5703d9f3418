"""``relay list``: rows, or parked rows grouped by error."""

import click

from outbox.operators.format import escape, format_age, format_time
from outbox.operators.rows import ErrorGroup
from outbox.states import RowState
from relay.cli.options import JSON, RowSelection, row_filters
from relay.cli.output import format_rows, print_lines, to_json
from relay.cli.param_types import NonEmptyParam
from relay.cli.session import open_operations


@click.command("list")
@click.option(
    "--idempotency-key",
    type=NonEmptyParam(),
    help="Select the row that was sent with this Idempotency-Key.",
)
@row_filters
@click.option(
    "--group-by",
    type=click.Choice(["error"]),
    metavar="error",
    help="Group parked rows by error, with their number and age.",
)
@JSON
def list_rows(*, selection: RowSelection, group_by: str | None, json_lines: bool) -> None:
    """List rows, or parked rows by error.

    Rows are listed in the order of their ids, without their content.

    \b
    Examples:
      relay list --state parked --since 2h
      relay list --group-by error --since 1d
      relay list --idempotency-key order-4711
    """
    if group_by:
        if selection.state not in (None, RowState.PARKED):
            raise click.UsageError(f"--group-by error shows parked rows, not {selection.state} ones")
        rows = selection.filter()
        with open_operations() as (operations, _):
            groups = operations.parked_by_error(rows)
            lines = (to_json(group._asdict()) if json_lines else _format_group(group) for group in groups)
            print_lines(lines, "list: no parked row matches")
    else:
        rows = selection.require()
        with open_operations() as (operations, _):
            print_lines(format_rows(operations.find(rows), json_lines=json_lines), "list: no row matches")


def _format_group(group: ErrorGroup) -> str:
    oldest = f"oldest {format_time(group.oldest_at_ms)}, {format_age(group.age_ms)} ago"
    return escape(f"{group.rows:>8} {group.error} ({oldest})")
