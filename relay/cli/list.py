"""``relay list``: rows, or parked rows by their errors."""

from typing import Any

import click

from outbox.operators.rows import FoundRow, RowFilter
from outbox.states import RowState
from relay.cli.options import JSON, filter_from, nothing_matched, operations, row_filters, rows_from
from relay.cli.output import escaped, to_json, told_age, told_time


@click.command("list")
@row_filters
@click.option(
    "--group-by",
    type=click.Choice(["error"]),
    metavar="error",
    help="Show parked rows by error, with their number and age.",
)
@JSON
def list_rows(*, group_by: str | None, json_lines: bool, **filters: Any) -> None:
    """List rows, or parked rows by error.

    Rows come in the order of their ids; nothing of their content is shown.

    \b
    Examples:
      relay list --state parked --since 2h
      relay list --group-by error --since 1d
    """
    if group_by:
        if filters["state"] not in (None, RowState.PARKED):
            raise click.UsageError(f"--group-by error shows parked rows, not {filters['state']} ones")
        _list_groups(filter_from(filters), json_lines=json_lines)
        return
    wanted = rows_from(filters)
    matched = False
    with operations() as (verbs, _):
        for row in verbs.find(wanted):
            matched = True
            click.echo(to_json(row._asdict()) if json_lines else told_row(row))
    if not matched:
        nothing_matched("list: no row matches")


def told_row(row: FoundRow) -> str:
    """A row in one line."""
    replay = f" replay of {row.replay_of}" if row.replay_of else ""
    replay += f" to {row.topic}" if row.topic else ""
    error = f": {row.error}" if row.error else ""
    what = f"{row.interaction_id} {row.channel}"
    return escaped(f"{row.id:>8} {row.state:<9} {told_time(row.received_at_ms)} {what}{replay}{error}")


def _list_groups(wanted: RowFilter, *, json_lines: bool) -> None:
    with operations() as (verbs, _):
        groups = verbs.parked_by_error(wanted)
    for group in groups:
        line = f"{group.rows:>8} for {told_age(group.age_ms):>7}, since {told_time(group.oldest_at_ms)} {group.error}"
        click.echo(to_json(group._asdict()) if json_lines else escaped(line))
    if not groups:
        nothing_matched("list: no parked row matches")
