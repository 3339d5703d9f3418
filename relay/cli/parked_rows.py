"""What ``relay retry`` and ``relay discard`` share: they change parked rows."""

from collections.abc import Callable

from outbox.operators.change import Operations
from outbox.operators.planned_change import Collect, PlannedChange, Verb, restrict
from outbox.operators.rows import RowFilter
from relay.cli.change import find_rows, run_change
from relay.cli.errors import usage_errors
from relay.cli.options import ChangeOptions, RowSelection
from relay.cli.output import ExitCode
from relay.cli.session import audit_context, open_operations


@usage_errors()
def change_parked(
    verb: Verb,
    plan: Callable[[Operations, RowFilter, Collect], PlannedChange],
    selection: RowSelection,
    options: ChangeOptions,
) -> ExitCode:
    """Change the parked rows that are selected.

    Args:
        verb: what is done to them.
        plan: plans it.
        selection: which rows.
        options: how, and why.
    """
    rows = restrict(verb, selection.require())
    with open_operations() as (operations, settings):
        context = audit_context(options, settings)
        return run_change(plan(operations, rows, find_rows), options, context)
