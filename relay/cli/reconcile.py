"""``relay reconcile``: after database or Kafka went back in time, make rows agree with the topic, and send again."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic, time
from typing import TypeVar

import click
from rich.console import Console
from sqlalchemy import Engine

from outbox.db.engine import LONG_ANSWER_SECONDS
from outbox.errors import OutboxError
from outbox.models import RowRef
from outbox.operators.audit import AuditContext
from outbox.operators.reconcile import (
    KnownRow,
    TopicRecord,
    advance_sequence,
    mark_published,
    match_records,
    unsent_before,
)
from outbox.progress import ProgressVerdict
from outbox.states import RowState
from outbox.store import Store
from relay.cli.options import DONE, PARTLY_DONE, USAGE, Moment, confirmed, nothing_matched, outbox_of
from relay.cli.output import escaped, told_time
from relay.cli.shards import SHARD, OperatingSettings, audit_context, planned
from relay.errors import RelayError, UnavailableError
from relay.kafka.progress import StoredProgress
from relay.kafka.topic_scan import OPEN_TRANSACTION_SECONDS, committed_since, cut_short
from relay.process.lost_rows import ShardLoss, find_lost_rows, last_kept_sequence, resend_lost_rows
from relay.process.maintenance import ShardMaintenance, maintain_shards
from relay.settings import kafka_client_config
from relay.shard.recovery import ShardInspection, inspect_shard

CHUNK_ROWS = 500
T = TypeVar("T")
SAMPLE_ROWS = 5


@dataclass
class ReconcilePlan:
    """What the topic says about the shards that are looked after."""

    sequences: dict[int, int]
    """The last Kafka transaction of each shard, when the plan was made."""
    records: int = 0
    marks: dict[int, set[RowRef]] = field(default_factory=lambda: defaultdict(set))
    """By shard, rows that stand as unsent here and are in the topic."""
    unknown: int = 0
    """Records whose rows are not here."""
    samples: list[TopicRecord] = field(default_factory=list)
    """Some of those."""
    truncated_partitions: dict[str, list[int]] = field(default_factory=dict)
    """By topic, partitions of which not every record is left that may be looked for."""

    def add(self, records: Sequence[TopicRecord], known: Sequence[KnownRow]) -> None:
        """Take in a page of records, and the rows here that they are."""
        self.records += len(records)
        missing = sorted(set(records) - {row.record for row in known})
        self.unknown += len(missing)
        self.samples += missing[: SAMPLE_ROWS - len(self.samples)]
        for row in known:
            if row.state != RowState.SENT and row.shard in self.sequences:
                self.marks[row.shard].add(row.ref)


@click.command()
@click.option(
    "--since", type=Moment(), help="Read the topic from here: ISO 8601, or an age as 2h; before the restored moment."
)
@click.option(
    "--accept-duplicates", is_flag=True, help="Look for nothing: what was sent and is unsent here is sent again."
)
@click.option("--accept-loss", is_flag=True, help="Look for nothing: what Kafka has lost stays marked sent.")
@click.option("--shard", "shards", type=SHARD, multiple=True, help="This one; may be repeated.")
@planned
def reconcile(
    *,
    since: int | None,
    accept_duplicates: bool,
    accept_loss: bool,
    shards: tuple[int, ...],
    actor: str | None,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Let shards send again after a service went back in time.

    The database (a restore, a failover to a stale replica): with --since, rows that the topic holds already are
    marked sent: id, interaction and time of receipt must all match. Or --accept-duplicates.

    Kafka (a broker restored from an older copy, an unclean leader election): without either, rows marked sent that
    the topic lacks become pending, and are sent again after later rows of their interactions that the topic kept.
    Or --accept-loss.

    Without --shard it is about the shards that wait for this.

    \b
    Examples:
      relay reconcile --since 2026-01-31T07:30 --reason "restored the backup of 08:00" --dry-run
      relay reconcile --accept-duplicates --shard 3 --reason "agreed with the consumers"
      relay reconcile --reason "broker 2 came back with yesterday's disk" --dry-run
    """
    if (since is not None) + accept_duplicates + accept_loss > 1:
        raise click.UsageError("give --since TIME, --accept-duplicates or --accept-loss, and no two of them")
    if since is not None and since > time() * 1000:
        raise click.UsageError("--since is in the future: give a moment before the one that was restored")
    with outbox_of(OperatingSettings, answer_seconds=LONG_ANSWER_SECONDS) as (engine, settings):
        context = audit_context(actor, reason, settings)
        with maintain_shards(settings, engine) as held:
            if strange := sorted(set(shards) - set(held.services.leases.owners())):
                nothing_matched(f"there is no shard {_told(strange)}")
            if since is None and not accept_duplicates:
                _send_lost_rows_again(engine, held, shards, context, accept=accept_loss, dry_run=dry_run, yes=yes)
                return
            plan = _plan(engine, held, shards, since)
            if not plan.sequences:
                nothing_matched("no shard waits to be reconciled: what Kafka holds, the database knows of")
            _show(engine, plan, since)
            _insist_on_yes(plan.sequences, dry_run=dry_run, yes=yes)
            done = [shard for shard in plan.sequences if _act(engine, held, plan, shard, context, since)]
    click.echo(f"reconcile: {sum(len(plan.marks[n]) for n in done)} row(s) marked, shard(s) {_told(done)} go on")
    if len(done) < len(plan.sequences):
        sys.exit(PARTLY_DONE)


def _insist_on_yes(shards: Iterable[int], *, dry_run: bool, yes: bool) -> None:
    if dry_run:
        sys.exit(DONE)
    if not confirmed(f"go on with shard(s) {_told(shards)}?", yes=yes):
        sys.exit(USAGE)


# Kafka went back -----------------------------------------------------------------------------------


def _send_lost_rows_again(
    engine: Engine,
    held: ShardMaintenance,
    wanted: Sequence[int],
    context: AuditContext,
    *,
    accept: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    looks = [_look(held, Store(engine), shard) for shard in wanted or held.shard_services.leases.owners()]
    if behind := [each.shard for each in looks if each.verdict is ProgressVerdict.DATABASE_WENT_BACK]:
        click.echo(
            f"the database of shard(s) {_told(behind)} went back in time, not Kafka: give --since TIME or "
            "--accept-duplicates for these",
            err=True,
        )
    waiting = [
        each
        for each in looks
        if each.verdict is ProgressVerdict.KAFKA_WENT_BACK
        or (wanted and each.verdict is not ProgressVerdict.DATABASE_WENT_BACK)
    ]
    if not waiting:
        nothing_matched("no shard waits because Kafka went back: what the database has settled, Kafka holds")
    # Of a shard that is named every row is looked for: the topic may have lost more than the progress topic shows.
    losses = [ShardLoss(each, 0 if wanted else last_kept_sequence(each, held.read_back)) for each in waiting]
    if not accept:
        with _reading() as reading:
            find_lost_rows(engine, held, losses, reading)
    for loss in losses:
        _show_loss(loss, accept=accept)
    _insist_on_yes([loss.inspection.shard for loss in losses], dry_run=dry_run, yes=yes)
    done = [loss for loss in losses if _repair(engine, held, loss, context, accept=accept)]
    again, shards = sum(len(loss.missing) for loss in done), _told(loss.inspection.shard for loss in done)
    click.echo(f"reconcile: {again} row(s) are pending again, shard(s) {shards} go on")
    if len(done) < len(losses) or any(loss.undecided for loss in losses) or set(behind) & set(wanted):
        sys.exit(PARTLY_DONE)


def _show_loss(loss: ShardLoss, *, accept: bool) -> None:
    shard, row, found, _ = loss.inspection
    at = f"transaction {found.ref.sequence}" if found else "no transaction"
    click.echo(
        f"reconcile of shard {shard}: {row.acknowledged_sequence} transaction(s) are settled, Kafka tells of {at}",
        err=True,
    )
    if accept:
        click.echo("  nothing is looked for: what Kafka has lost stays marked sent, and is not in the topic", err=True)
        return
    click.echo(
        f"  of {loss.sent} row(s) marked sent by transactions above {loss.above}, {len(loss.missing)} are missing in "
        "the topic and are sent again. Order is not kept: they come after later rows of their interactions that the "
        "topic kept",
        err=True,
    )
    if loss.undecided:
        click.echo(
            f"  {loss.undecided} more were not found, but records of their time may have been removed (retention.ms), "
            "or KAFKA_REPLAY_TOPICS does not name their topic any more: they stay marked sent (exit code 5)",
            err=True,
        )


def _repair(engine: Engine, held: ShardMaintenance, loss: ShardLoss, context: AuditContext, *, accept: bool) -> bool:
    """Whether it was done."""
    try:
        resend_lost_rows(engine, held, loss, context, "accept the loss of" if accept else "reconcile")
    except (RelayError, OutboxError) as error:
        click.echo(str(error), err=True)
        return False
    finally:
        held.give_back(loss.inspection.shard)  # it need not wait for the others
    return True


@contextmanager
def _reading() -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many records were read."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _records: None
        return
    with console.status("reading the topics") as status:
        yield lambda records: status.update(f"reading the topics: {records:,} records")


# The database went back ----------------------------------------------------------------------------


def _plan(engine: Engine, held: ShardMaintenance, wanted: tuple[int, ...], since: int | None) -> ReconcilePlan:
    """Read the progress records before the topic: what they count is then among the records read."""
    looks = {shard: _look(held, Store(engine), shard) for shard in held.shard_services.leases.owners()}
    waiting = wanted or [n for n, each in looks.items() if each.verdict is ProgressVerdict.DATABASE_WENT_BACK]
    if kafka := [shard for shard in waiting if looks[shard].verdict is ProgressVerdict.KAFKA_WENT_BACK]:
        nothing_matched(f"shard(s) {_told(kafka)} wait because Kafka went back: leave out --since and the like")
    plan = ReconcilePlan({shard: _sequence(looks[shard].found) for shard in waiting})
    if since is None or not plan.sequences:
        return plan
    config, topics = kafka_client_config(held.settings), held.settings.kafka_topics
    found = {topic: cut_short(held.admin, topic, since) for topic in topics}
    plan.cut_short = {topic: partitions for topic, partitions in found.items() if partitions}
    with _reading() as reading:
        for page in chain.from_iterable(committed_since(config, held.admin, topic, since) for topic in topics):
            plan.add(page, match_records(engine, page))
            reading(plan.records)
    return plan


def _look(held: ShardMaintenance, store: Store, shard: int) -> ShardInspection:
    return _patiently(lambda: inspect_shard(store, held.read_back, shard))


def _patiently(read: Callable[[], T]) -> T:
    """Nobody may have been fenced for it, so a dead producer's open transaction has to run out first."""
    deadline = monotonic() + OPEN_TRANSACTION_TIMEOUT_SECONDS
    while True:
        try:
            return read()
        except UnavailableError:
            if monotonic() > deadline:
                raise


def _sequence(record: StoredProgress | None) -> int:
    return record.ref.sequence if record else 0


def _show(engine: Engine, plan: ReconcilePlan, since: int | None) -> None:
    if since is None:
        click.echo(
            f"reconcile of shard(s) {_told(plan.sequences)}: nothing is looked for, and what was sent since the "
            "restored moment is sent a second time if it is unsent here",
            err=True,
        )
        return
    marks = sum(map(len, plan.marks.values()))
    click.echo(
        f"reconcile of shard(s) {_told(plan.sequences)}: of {plan.records} record(s) since {told_time(since)}, "
        f"{marks} stand as unsent here and are marked sent",
        err=True,
    )
    if plan.unknown:
        click.echo(f"  {plan.unknown} record(s) are of rows that this database does not know (any more):", err=True)
        for record in plan.samples:
            told = f"{record.outbox_id} {told_time(record.received_at_ms)} {record.interaction_id}"
            click.echo(escaped(f"    {told}"), err=True)
    for topic, partitions in plan.truncated_partitions.items():
        click.echo(
            f"  partition(s) {_told(partitions)} of {topic} begin later, for records were removed (retention.ms): "
            "unsent rows that were among those are not found, and are sent again",
            err=True,
        )
    if older := unsent_before(engine, since):
        click.echo(
            f"  {older} unsent row(s) were received before {told_time(since)}: what was sent of them before then is "
            "not found, and is sent again. Give an earlier --since if the restored moment is earlier",
            err=True,
        )


def _act(
    engine: Engine, held: ShardMaintenance, plan: ReconcilePlan, shard: int, context: AuditContext, since: int | None
) -> bool:
    """Take the shard, see that the plan still holds, mark its rows, and let it go on; whether that was done."""
    try:
        each = held.take(shard)
        record = _patiently(lambda: held.read_back(shard))
        if _sequence(record) != plan.sequences[shard]:  # fenced: from here on it cannot change
            click.echo(f"shard {shard} was sent meanwhile, and is left as it is: run this again", err=True)
            return False
        lease, sequence = each.lease, plan.sequences[shard]
        refs = sorted(plan.marks[shard])
        for start in range(0, len(refs), CHUNK_ROWS):
            chunk, inference = refs[start : start + CHUNK_ROWS], held.services.inference
            mark_published(engine, lease, sequence, chunk, context, inference=inference)
            held.renew()
        verb = "reconcile" if since is not None else "accept duplicates of"
        advance_sequence(engine, lease, record.ref if record else None, verb, context)
    except (RelayError, OutboxError) as error:
        click.echo(str(error), err=True)
        return False
    finally:
        held.give_back(shard)  # it need not wait for the others
    return True


def _told(shards: Iterable[int]) -> str:
    return ", ".join(map(str, shards)) or "none"
