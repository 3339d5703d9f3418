"""``relay discard``: give up parked rows."""

import sys

import click

from outbox.operators.change import Operations
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
    consequence = "they are never sent; the rows waiting behind them ({} now) are"
    sys.exit(change_parked("discard", Operations.discard, consequence, selection, options))
