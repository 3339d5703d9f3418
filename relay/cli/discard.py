"""``relay discard``: give up parked rows."""

import sys

import click

from outbox.operators.planned_change import Verb, plan_discard
from relay.cli.options import ChangeOptions, RowSelection, change_options, row_filters
from relay.cli.parked_rows import change_parked


@click.command()
@row_filters
@change_options
def discard(*, selection: RowSelection, options: ChangeOptions) -> None:
    """Discard parked rows, so that the rows behind them are sent.

    Discarded rows are kept and can be replayed later.

    \b
    Examples:
      relay discard --id 4711 --reason "test call, agreed with the integrator"
      relay discard --interaction abc-1 --dry-run
    """
    sys.exit(change_parked(Verb.DISCARD, plan_discard, selection, options))
