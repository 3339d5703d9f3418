"""``relay reconcile``: resume shards after the database or Kafka went back in time."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import time

import click
from rich.console import Console
from sqlalchemy import Engine

from outbox.operators.audit import AuditContext
from outbox.operators.format import escape, format_shards, format_time, plural
from outbox.operators.reconcile import unsent_before
from relay.cli.options import SHARD_NUMBER, ChangeOptions, confirm_or_exit, plan_options
from relay.cli.output import ExitCode, exit_nothing_matched
from relay.cli.param_types import TimeParam, Timestamp
from relay.cli.session import audit_context, open_outbox_for_shards
from relay.process import lost_rows
from relay.process.lost_rows import ShardLoss
from relay.process.maintenance import ShardMaintenance, maintain_shards
from relay.process.reconcile import (
    DatabaseReconcilePlan,
    for_each_shard,
    plan_database_reconcile,
    plan_kafka_reconcile,
    reconcile_database,
    unknown_shards,
)


@click.command()
@click.option(
    "--since", type=TimeParam(), help="Read the topic from this time on; it must be before the restored moment."
)
@click.option("--accept-duplicates", is_flag=True, help="Skip the search; send again what is unsent here.")
@click.option("--accept-loss", is_flag=True, help="Skip the search; what Kafka lost stays marked sent.")
@click.option(
    "--shard",
    "shards",
    type=SHARD_NUMBER,
    multiple=True,
    help="Reconcile this shard; may be repeated [default: all affected].",
)
@plan_options
def reconcile(
    *,
    since: Timestamp | None,
    accept_duplicates: bool,
    accept_loss: bool,
    shards: tuple[int, ...],
    options: ChangeOptions,
) -> None:
    """Resume shards after the database or Kafka went back in time.

    The database (a restore, a failover to a stale replica): give --since, and rows that the topic already
    holds are marked sent. Id, interaction and time of receipt must all match. Or give --accept-duplicates.

    Kafka (a broker restored from an older copy, an unclean leader election): give neither, and rows marked
    sent that the topic lacks become pending. They are sent again, after later rows of their interactions
    that the topic kept. Or give --accept-loss.

    \b
    Examples:
      relay reconcile --since 2026-01-31T07:30 --reason "restored the backup of 08:00" --dry-run
      relay reconcile --accept-duplicates --shard 3 --reason "agreed with the consumers"
      relay reconcile --reason "broker 2 came back with yesterday's disk" --dry-run
    """
    if (since is not None) + accept_duplicates + accept_loss > 1:
        raise click.UsageError("give only one of --since, --accept-duplicates and --accept-loss")
    if since is not None and since.ms > time() * 1000:
        raise click.UsageError("--since is in the future: give a time before the restored moment")
    with open_outbox_for_shards() as (engine, settings):
        context = audit_context(options, settings)
        with maintain_shards(settings, engine) as maintenance:
            if unknown := unknown_shards(maintenance, shards):
                exit_nothing_matched(f"no such shard: {', '.join(map(str, unknown))}")
            run = _Reconciliation(engine, maintenance, context, options)
            if since is None and not accept_duplicates:
                code = _reconcile_kafka(run, shards, accept_loss=accept_loss)
            else:
                code = _reconcile_database(run, shards, since.ms if since else None)
    sys.exit(code)


@dataclass(frozen=True)
class _Reconciliation:
    """What a reconcile works with."""

    engine: Engine
    maintenance: ShardMaintenance
    context: AuditContext
    options: ChangeOptions

    def for_each(self, shards: Iterable[int], action: Callable[[int], None]) -> list[int]:
        """Run an action for each shard and return those for which it succeeded; print why one failed."""
        return for_each_shard(self.maintenance, shards, action, lambda error: click.echo(str(error), err=True))


# The database went back ----------------------------------------------------------------------------


def _reconcile_database(run: _Reconciliation, shards: tuple[int, ...], since_ms: int | None) -> ExitCode:
    with _reading_progress() as progress:
        plan = plan_database_reconcile(run.engine, run.maintenance, shards, since_ms, progress)
    if plan.kafka_went_back:
        exit_nothing_matched(
            f"Kafka went back in time, not the database, for {format_shards(plan.kafka_went_back)}: "
            "give neither --since nor --accept-duplicates"
        )
    if not plan.sequences:
        exit_nothing_matched("no shard waits for a reconcile: the database knows every transaction in Kafka")
    _print_database_plan(run.engine, plan, since_ms)
    confirm_or_exit(f"reconcile {format_shards(list(plan.sequences))}?", run.options)
    verb = "reconcile" if since_ms is not None else "accept duplicates of"
    done = run.for_each(
        plan.sequences,
        lambda shard: reconcile_database(run.engine, run.maintenance, plan, shard, run.context, verb),
    )
    marked = sum(len(plan.published[shard]) for shard in done)
    click.echo(f"reconcile: marked {plural(marked, 'row')} sent, resumed {format_shards(done)}")
    return ExitCode.DONE if len(done) == len(plan.sequences) else ExitCode.PARTLY_DONE


def _print_database_plan(engine: Engine, plan: DatabaseReconcilePlan, since_ms: int | None) -> None:
    shards = format_shards(list(plan.sequences))
    if since_ms is None:
        click.echo(
            f"reconcile {shards}: nothing is searched; what was sent since the restored moment and is unsent here "
            "is sent a second time",
            err=True,
        )
        return
    since, published = format_time(since_ms), sum(map(len, plan.published.values()))
    records = plural(plan.records, "record")
    click.echo(f"reconcile {shards}: of {records} since {since}, {published:,} unsent here are marked sent", err=True)
    if plan.unknown:
        click.echo(f"  {plural(plan.unknown, 'record')} of rows that this database does not have:", err=True)
        for record in plan.samples:
            sample = f"{record.outbox_id} {format_time(record.received_at_ms)} {record.interaction_id}"
            click.echo(f"    {escape(sample)}", err=True)
    for topic, partitions in plan.truncated.items():
        click.echo(
            f"  topic {topic}: records of partition {', '.join(map(str, partitions))} since then were removed "
            "(retention.ms); unsent rows among them are not found and are sent again",
            err=True,
        )
    if older := unsent_before(engine, since_ms):
        click.echo(
            f"  {plural(older, 'unsent row')} received before {since}: what was sent of them before then is not "
            "found and is sent again. Give an earlier --since if the restored moment is earlier",
            err=True,
        )


# Kafka went back -----------------------------------------------------------------------------------


def _reconcile_kafka(run: _Reconciliation, shards: tuple[int, ...], *, accept_loss: bool) -> ExitCode:
    plan = plan_kafka_reconcile(run.engine, run.maintenance, shards)
    if plan.database_went_back:
        click.echo(
            f"the database went back in time, not Kafka, for {format_shards(plan.database_went_back)}: "
            "reconcile with --since TIME or --accept-duplicates",
            err=True,
        )
    if not plan.losses:
        exit_nothing_matched("no shard waits because Kafka went back: Kafka holds every acknowledged transaction")
    losses = {loss.inspection.shard: loss for loss in plan.losses}
    if not accept_loss:
        with _reading_progress() as progress:
            lost_rows.find_lost_rows(run.engine, run.maintenance, plan.losses, progress)
    for loss in plan.losses:
        _print_loss(loss, accept_loss=accept_loss)
    confirm_or_exit(f"reconcile {format_shards(list(losses))}?", run.options)
    verb = "accept the loss of" if accept_loss else "reconcile"
    done = run.for_each(
        losses,
        lambda shard: lost_rows.resend_lost_rows(run.engine, run.maintenance, losses[shard], run.context, verb),
    )
    pending = sum(len(losses[shard].missing) for shard in done)
    click.echo(f"reconcile: {plural(pending, 'row')} pending again, resumed {format_shards(done)}")
    return ExitCode.DONE if plan.is_complete(done, shards) else ExitCode.PARTLY_DONE


def _print_loss(loss: ShardLoss, *, accept_loss: bool) -> None:
    shard, row, found, _ = loss.inspection
    last = found.ref.sequence if found else "none"
    click.echo(
        f"reconcile shard {shard}: the last acknowledged transaction is {row.acknowledged_sequence}, "
        f"the last in Kafka is {last}",
        err=True,
    )
    if accept_loss:
        click.echo("  nothing is searched: what Kafka lost stays marked sent and is not in the topic", err=True)
        return
    click.echo(
        f"  of {plural(loss.sent, 'row')} marked sent by transactions above {loss.above}, {len(loss.missing):,} are "
        "missing from the topic and are sent again. Order is not kept: they come after later rows of their "
        "interactions that the topic kept",
        err=True,
    )
    if loss.undecided:
        click.echo(
            f"  {loss.undecided:,} more were not found, but retention (retention.ms) may have removed them, or "
            "KAFKA_REPLAY_TOPICS no longer names their topic: they stay marked sent (exit code 5)",
            err=True,
        )


@contextmanager
def _reading_progress() -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many records were read."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _records: None
        return
    with console.status("reading the topics") as status:
        yield lambda records: status.update(f"reading the topics: {records:,} records")
