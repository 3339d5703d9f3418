"""``relay reshard``: change the number of shards."""

import sys

import click

from outbox.operators.format import plural
from outbox.operators.reshard import plan_reshard
from outbox.store import Store
from relay.cli.options import ChangeOptions, confirm_or_exit, plan_options
from relay.cli.output import ExitCode, exit_nothing_matched
from relay.cli.param_types import IntegerParam
from relay.cli.session import audit_context, open_outbox_for_shards
from relay.process.maintenance import maintain_shards
from relay.process.reshard import reshard_outbox, sending_shards


@click.command()
@click.argument("shards", type=IntegerParam(1, 99))
@plan_options
def reshard(*, shards: int, options: ChangeOptions) -> None:
    """Change the number of shards.

    Relays must be paused or stopped. The command first takes each shard and finishes its last transaction.
    It then changes the number, and the shard of each unsent row, in one transaction. The webhook waits for
    that transaction, and responds with 503 if it takes more than a few seconds.

    \b
    Examples:
      relay pause --reason "reshard" && relay reshard 16 --dry-run
      relay reshard 16 --reason "four more relays" --yes && relay resume --reason "reshard done"
    """
    with open_outbox_for_shards() as (engine, settings):
        context = audit_context(options, settings)
        status = Store(engine).status()
        current = len(status)
        if current == shards:
            exit_nothing_matched(f"the outbox already has {plural(shards, 'shard')}")
        if sending := sending_shards(status):
            named = ", ".join(f"shard {shard.shard} ({shard.owner})" for shard in sending)
            click.echo(f"relays are sending {named}: pause them first with relay pause --reason …", err=True)
            sys.exit(ExitCode.FAILED)
        plan = plan_reshard(engine, current, shards)
        click.echo(
            f"reshard {plural(current, 'shard')} to {shards}: {plan.moving:,} of {plural(plan.unsent, 'unsent row')} "
            "move to another shard; meanwhile nothing is accepted or sent",
            err=True,
        )
        confirm_or_exit(f"change {plural(current, 'shard')} to {shards}?", options)
        with maintain_shards(settings, engine) as maintenance:
            moved = reshard_outbox(engine, maintenance, current, shards, context)
    click.echo(f"reshard: changed {plural(current, 'shard')} to {shards}, moved {plural(moved, 'row')}")
    click.echo(f"unset RELAY_SHARDS or set it to {shards}; then run relay resume if relays are paused", err=True)
