"""``relay pause`` and ``relay resume``: keep relays from sending, and let them send again."""

import click

from outbox.operators.pause import pause_shards, resume_shards
from relay.cli.options import OperatorSettings, nothing_matched, outbox_of
from relay.cli.shards import SHARD, Span, audit_context, on_record

_SHARD = click.option("--shard", type=SHARD, help="Only this shard [default: all]")


@click.command()
@_SHARD
@click.option("--for", "for_seconds", type=Span(), help="Resume after this time, such as 30m or 1h30m.")
@on_record
def pause(*, shard: int | None, for_seconds: float | None, actor: str | None, reason: str) -> None:
    """Pause sending, of all shards or of one.

    Relays give their paused shards back after the batch in hand. The webhook still accepts. Pausing
    again replaces reason and expiry.

    \b
    Examples:
      relay pause --reason "broker upgrade" --for 30m
      relay pause --shard 3 --reason "looking at its rows"
    """
    with outbox_of(OperatorSettings) as (engine, settings):
        paused = pause_shards(engine, shard, for_seconds, audit_context(actor, reason, settings))
    if not paused:
        nothing_matched(f"there is no shard {shard}")
    lasting = "until relay resume" if for_seconds is None else f"for {for_seconds:.0f} s, or until relay resume"
    click.echo(f"paused {lasting}: {_told(paused)}")


@click.command()
@_SHARD
@on_record
def resume(*, shard: int | None, actor: str | None, reason: str) -> None:
    """Resume sending after a pause.

    \b
    Examples:
      relay resume --reason "upgrade done"
      relay resume --shard 3 --reason "seen"
    """
    with outbox_of(OperatorSettings) as (engine, settings):
        resumed = resume_shards(engine, shard, audit_context(actor, reason, settings))
    if not resumed:
        nothing_matched("nothing is paused" if shard is None else f"shard {shard} is not paused")
    click.echo(f"resumed: {_told(resumed)}")


def _told(shards: list[int]) -> str:
    return f"shard{'s' * (len(shards) > 1)} {', '.join(map(str, shards))}"
