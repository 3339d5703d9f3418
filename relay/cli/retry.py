"""``relay retry``: send parked rows again."""

import sys

import click

from outbox.operators.planned_change import Verb, plan_retry
from relay.cli.options import ChangeOptions, RowSelection, change_options, row_filters
from relay.cli.parked_rows import change_parked


@click.command()
@row_filters
@change_options
def retry(*, selection: RowSelection, options: ChangeOptions) -> None:
    """Send parked rows again, before the rows behind them.

    The rows become pending and keep their place in their interaction.

    \b
    Examples:
      relay retry --id 4711 --reason "topic limit raised"
      relay retry --error MSG_SIZE_TOO_LARGE --since 2h --dry-run
    """
    sys.exit(change_parked(Verb.RETRY, plan_retry, selection, options))
