"""``relay pause``: stop relays from sending."""

import click

from outbox.operators.pause import pause_shards
from relay.cli.options import SHARD_NUMBER, ChangeOptions, audit_options
from relay.cli.output import exit_nothing_matched
from relay.cli.param_types import DurationParam
from relay.cli.session import audit_context, open_outbox
from relay.operator_settings import OperatorSettings


@click.command()
@click.option("--shard", type=SHARD_NUMBER, help="Pause only this shard [default: all].")
@click.option("--for", "for_seconds", type=DurationParam(), help="Resume after this time, such as 30m or 1h30m.")
@audit_options
def pause(*, shard: int | None, for_seconds: float | None, options: ChangeOptions) -> None:
    """Pause sending from all shards or from one.

    Relays release paused shards after the current batch. The webhook keeps accepting. Pausing a paused
    shard replaces its reason and its end.

    \b
    Examples:
      relay pause --reason "broker upgrade" --for 30m
      relay pause --shard 3 --reason "looking at its rows"
    """
    with open_outbox(OperatorSettings) as (engine, settings):
        paused = pause_shards(engine, shard, for_seconds, audit_context(options, settings))
    if not paused.shards:
        exit_nothing_matched(paused.text)
    click.echo(paused.text)
