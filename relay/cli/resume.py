"""``relay resume``: let relays send again."""

import click

from outbox.operators.pause import resume_shards
from relay.cli.options import SHARD_NUMBER, ChangeOptions, audit_options
from relay.cli.output import exit_nothing_matched
from relay.cli.session import audit_context, open_outbox
from relay.operator_settings import OperatorSettings


@click.command()
@click.option("--shard", type=SHARD_NUMBER, help="Resume only this shard [default: all].")
@audit_options
def resume(*, shard: int | None, options: ChangeOptions) -> None:
    """Resume sending after a pause.

    \b
    Examples:
      relay resume --reason "upgrade done"
      relay resume --shard 3 --reason "rows checked"
    """
    with open_outbox(OperatorSettings) as (engine, settings):
        resumed = resume_shards(engine, shard, audit_context(options, settings))
    if not resumed.shards:
        exit_nothing_matched(resumed.text)
    click.echo(resumed.text)
