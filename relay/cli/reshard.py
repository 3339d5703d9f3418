"""``relay reshard``: another number of shards."""

import sys
from collections.abc import Sequence

import click
from sqlalchemy import Engine

from outbox.db.engine import LONG_ANSWER_SECONDS
from outbox.models import ShardStatus
from outbox.operators.audit import AuditContext
from outbox.operators.reshard import ReshardPlan, plan_reshard, reshard_rows
from outbox.store import Store
from relay.cli.options import DONE, FAILED, USAGE, WholeNumber, confirmed, nothing_matched, outbox_of
from relay.cli.shards import OperatingSettings, audit_context, planned
from relay.kafka.progress_topic import grow_progress_topic
from relay.process.maintenance import ShardMaintenance, maintain_shards


@click.command()
@click.argument("shards", type=WholeNumber(1, 99))
@planned
def reshard(*, shards: int, actor: str | None, reason: str, dry_run: bool, yes: bool) -> None:
    """Change the number of shards.

    Relays must be paused or stopped. Each old shard is taken and settled first. The number and the shard of
    each row not yet sent then change in one transaction; the webhook waits for it, and answers 503 if it
    takes more than some seconds.

    \b
    Examples:
      relay pause --reason "reshard" && relay reshard 16 --dry-run
      relay reshard 16 --reason "four more relays" --yes && relay resume --reason "reshard done"
    """
    with outbox_of(OperatingSettings, answer_seconds=LONG_ANSWER_SECONDS) as (engine, settings):
        context = audit_context(actor, reason, settings)
        status = Store(engine).status()
        if len(status) == shards:
            nothing_matched(f"this outbox has {shards} shard(s) already")
        if sending := refusal(status):
            click.echo(sending, err=True)
            sys.exit(FAILED)
        _show(plan_reshard(engine, len(status), shards))
        if dry_run:
            sys.exit(DONE)
        if not confirmed(f"change {len(status)} shard(s) to {shards}?", yes=yes):
            sys.exit(USAGE)
        with maintain_shards(settings, engine) as held:
            moved = _reshard(engine, held, len(status), shards, context)
    click.echo(f"reshard: {len(status)} shard(s) are {shards} now, {moved} row(s) moved")
    click.echo(f"unset RELAY_SHARDS or set it to {shards}; then relay resume, if relays are paused", err=True)


def refusal(status: Sequence[ShardStatus]) -> str | None:
    """Why it cannot be done now: a live relay holds a shard that is not paused."""
    sending = [s for s in status if s.owner and s.lease_remaining_ms > 0 and s.paused_by is None]
    if not sending:
        return None
    named = ", ".join(f"shard {s.shard} ({s.owner})" for s in sending)
    return f"relays send: {named}. Pause them first: relay pause --reason …"


def _show(plan: ReshardPlan) -> None:
    click.echo(
        f"reshard of {plan.old} shard(s) to {plan.new}: {plan.unsent} row(s) are not sent, {plan.moving} of them "
        "move to another shard; meanwhile nothing is accepted or sent",
        err=True,
    )


def _reshard(engine: Engine, held: ShardMaintenance, old: int, new: int, context: AuditContext) -> int:
    """Take and settle each old shard, for what is open or unmarked under it would be doubled; then the change."""
    for shard in range(old):
        held.take(shard)
        held.recover(shard)
        held.renew()
    settled = {}
    if new > old:
        partitions = grow_progress_topic(held.admin, held.settings, new)
        for shard in range(old, min(new, partitions)):  # it may have been a shard before
            record = held.read_back(shard)
            settled[shard] = record.ref.sequence if record else 0
            held.renew()
    return reshard_rows(engine, held.leases, settled, new, context)
