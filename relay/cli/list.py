"""``relay list``: rows, or parked rows grouped by error."""

import click

from outbox.models import RowFilter
from outbox.states import RowState
from relay.cli.options import JSON, RowSelection, row_filters
from relay.cli.output import escape, exit_nothing_matched, format_age, format_row, format_time, to_json
from relay.cli.session import open_operations


@click.command("list")
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
    """
    if group_by:
        if selection.state not in (None, RowState.PARKED):
            raise click.UsageError(f"--group-by error shows parked rows, not {selection.state} ones")
        _list_groups(selection.filter(), json_lines=json_lines)
    else:
        _list_rows(selection.require(), json_lines=json_lines)


def _list_rows(rows: RowFilter, *, json_lines: bool) -> None:
    found = False
    with open_operations() as (operations, _):
        for row in operations.find(rows):
            found = True
            click.echo(to_json(row._asdict()) if json_lines else format_row(row))
    if not found:
        exit_nothing_matched("list: no row matches")


def _list_groups(rows: RowFilter, *, json_lines: bool) -> None:
    with open_operations() as (operations, _):
        groups = operations.parked_by_error(rows)
    for group in groups:
        oldest = f"oldest {format_time(group.oldest_at_ms)}, {format_age(group.age_ms)} ago"
        click.echo(to_json(group._asdict()) if json_lines else escape(f"{group.rows:>8} {group.error} ({oldest})"))
    if not groups:
        exit_nothing_matched("list: no parked row matches")
