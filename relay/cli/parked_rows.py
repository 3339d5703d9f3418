"""What ``relay retry`` and ``relay discard`` share: they change parked rows."""

from collections.abc import Callable
from dataclasses import replace

import click

from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.commands import filter_arguments
from outbox.operators.rows import PlannedRow, RowFilter
from outbox.states import RowState
from relay.cli.change import PlannedChange, explain_empty, find_rows, run_change, until_now
from relay.cli.options import ChangeOptions, RowSelection
from relay.cli.output import ExitCode
from relay.cli.session import audit_context, open_operations


def change_parked(
    command: str,
    apply: Callable[[Operations, list[PlannedRow], AuditContext], list[int]],
    consequence: str,
    selection: RowSelection,
    options: ChangeOptions,
) -> ExitCode:
    """Change the parked rows that are selected.

    Args:
        command: its name.
        apply: changes a chunk of rows.
        consequence: what will happen; ``{}`` stands for the number of rows behind the parked ones.
        selection: which rows.
        options: how, and why.
    """
    rows = in_state(command, selection.require(), RowState.PARKED)
    with open_operations() as (operations, settings):
        context = audit_context(options, settings, rows)
        continuation = (command, *filter_arguments(until_now(rows)))
        plan = find_rows(operations.find(rows))
        behind = operations.count_blocked(rows) if plan else 0
        change = PlannedChange(
            command,
            plan,
            lambda chunk: apply(operations, chunk, context),
            (consequence.format(behind),),
            continuation,
            empty_reason="" if plan else explain_empty(operations, rows, RowState.PARKED),
        )
        return run_change(change, options)


def in_state(command: str, rows: RowFilter, *states: RowState) -> RowFilter:
    """Restrict a filter to the states that a command accepts; the first is the default.

    Raises:
        click.UsageError: the filter names another state.
    """
    if rows.state is not None and rows.state not in states:
        raise click.UsageError(f"{command} takes {' or '.join(states)} rows only, not {rows.state} ones")
    return replace(rows, state=rows.state or states[0].value)
