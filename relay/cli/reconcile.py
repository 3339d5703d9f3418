"""``relay reconcile``: after a restore of the database, mark what the topic holds already, and go on."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic, time

import click
from rich.console import Console
from sqlalchemy import Engine

from outbox import reconciling
from outbox.errors import OutboxError
from outbox.reconciling import KnownRow, SeenRecord
from outbox.rows import Order, Ref
from outbox.states import RowState
from outbox.store import Store
from relay.cli.output import escaped, told_time
from relay.cli.shards import SHARD, OperatingSettings, order_of, planned
from relay.cli.shared import DONE, PARTLY_DONE, USAGE, Moment, confirmed, nothing_matched, outbox_of
from relay.custody import Custody, custody
from relay.errors import RelayError, UnavailableError
from relay.records import OPEN_TRANSACTION_SECONDS, committed_since, cut_short
from relay.settings import kafka_client_config

CHUNK_ROWS = 500
SAMPLE_ROWS = 5


@dataclass
class Plan:
    """What the topic says about the shards that are looked after."""

    sequences: dict[int, int]
    """The last Kafka transaction of each shard, when the plan was made."""
    records: int = 0
    marks: dict[int, set[Ref]] = field(default_factory=lambda: defaultdict(set))
    """By shard, rows that stand as unsent here and are in the topic."""
    unknown: int = 0
    """Records whose rows are not here."""
    samples: list[SeenRecord] = field(default_factory=list)
    """Some of those."""
    cut_short: dict[str, list[int]] = field(default_factory=dict)
    """By topic, partitions of which not every record is left that may be looked for."""

    def add(self, records: Sequence[SeenRecord], known: Sequence[KnownRow]) -> None:
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
@click.option("--shard", "shards", type=SHARD, multiple=True, help="This one; may be repeated.")
@planned
def reconcile(
    *,
    since: int | None,
    accept_duplicates: bool,
    shards: tuple[int, ...],
    actor: str | None,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Let shards go on whose database went back in time.

    That is after a restore, or a failover to a stale replica. Rows that the topic holds already are marked
    sent: id, interaction and time of receipt must all match. Without --shard it is about the shards that
    wait for this.

    \b
    Examples:
      relay reconcile --since 2026-01-31T07:30 --reason "restored the backup of 08:00" --dry-run
      relay reconcile --accept-duplicates --shard 3 --reason "agreed with the consumers"
    """
    if (since is None) != accept_duplicates:
        raise click.UsageError("give --since TIME, or --accept-duplicates, and not both")
    if since is not None and since > time() * 1000:
        raise click.UsageError("--since is in the future: give a moment before the one that was restored")
    with outbox_of(OperatingSettings) as (engine, settings):
        order = order_of(actor, reason, settings)
        with custody(settings, engine) as held:
            if strange := sorted(set(shards) - set(held.parts.leases.owners())):
                nothing_matched(f"there is no shard {_told(strange)}")
            plan = _plan(engine, held, shards, since)
            if not plan.sequences:
                nothing_matched("no shard waits to be reconciled: what Kafka holds, the database knows of")
            _show(engine, plan, since)
            if dry_run:
                sys.exit(DONE)
            if not confirmed(f"go on with shard(s) {_told(plan.sequences)}?", yes=yes):
                sys.exit(USAGE)
            done = [shard for shard in plan.sequences if _act(engine, held, plan, shard, order, since)]
    click.echo(f"reconcile: {sum(len(plan.marks[n]) for n in done)} row(s) marked, shard(s) {_told(done)} go on")
    if len(done) < len(plan.sequences):
        sys.exit(PARTLY_DONE)


def _plan(engine: Engine, held: Custody, wanted: tuple[int, ...], since: int | None) -> Plan:
    """Read the progress records before the topic: what they count is then among the records read."""
    last = {shard: _last_sequence(held, shard) for shard in held.parts.leases.owners()}
    # Kafka first: of a shard that is being sent the database then knows as much or more, never less by two.
    settled = {each.shard: each.settled for each in Store(engine).status()}
    waiting = wanted or [shard for shard, sequence in last.items() if sequence > settled.get(shard, sequence) + 1]
    sequences = {shard: sequence for shard, sequence in last.items() if shard in waiting}
    plan = Plan(sequences)
    if since is None or not sequences:
        return plan
    prepared = held.prepared
    console = Console(stderr=True)
    with console.status("reading the topic") if console.is_terminal else _silence() as status:
        config, topics = kafka_client_config(prepared.settings), prepared.settings.kafka_topics
        found = {topic: cut_short(prepared.admin, topic, since) for topic in topics}
        plan.cut_short = {topic: partitions for topic, partitions in found.items() if partitions}
        for page in chain.from_iterable(committed_since(config, prepared.admin, topic, since) for topic in topics):
            plan.add(page, reconciling.recognise(engine, page))
            if status is not None:
                status.update(f"reading the topics: {plan.records:,} records")
    return plan


def _last_sequence(held: Custody, shard: int) -> int:
    """As Kafka knows it; nobody is fenced for it, so a dead producer's open transaction has to run out first."""
    deadline = monotonic() + OPEN_TRANSACTION_SECONDS
    while True:
        try:
            record = held.parts.read_back(shard)
        except UnavailableError:
            if monotonic() > deadline:
                raise
        else:
            return record.sequence if record else 0


@contextmanager
def _silence() -> Iterator[None]:
    yield None


def _show(engine: Engine, plan: Plan, since: int | None) -> None:
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
    for topic, partitions in plan.cut_short.items():
        click.echo(
            f"  partition(s) {_told(partitions)} of {topic} begin later, for records were removed (retention.ms): "
            "unsent rows that were among those are not found, and are sent again",
            err=True,
        )
    if older := reconciling.unsent_before(engine, since):
        click.echo(
            f"  {older} unsent row(s) were received before {told_time(since)}: what was sent of them before then is "
            "not found, and is sent again. Give an earlier --since if the restored moment is earlier",
            err=True,
        )


def _act(engine: Engine, held: Custody, plan: Plan, shard: int, order: Order, since: int | None) -> bool:
    """Take the shard, see that the plan still holds, mark its rows, and let it go on; whether that was done."""
    try:
        _, each = held.take(shard)
        if _last_sequence(held, shard) != plan.sequences[shard]:  # fenced: from here on it cannot change
            click.echo(f"shard {shard} was sent meanwhile, and is left as it is: run this again", err=True)
            return False
        lease, sequence = each.lease, plan.sequences[shard]
        refs = sorted(plan.marks[shard])
        for start in range(0, len(refs), CHUNK_ROWS):
            chunk, inference = refs[start : start + CHUNK_ROWS], held.parts.inference
            reconciling.mark_found(engine, lease, sequence, chunk, order, inference=inference)
            held.renew()
        verb = "reconcile" if since is not None else "accept duplicates of"
        reconciling.overtake(engine, lease, sequence, verb, order)
    except (RelayError, OutboxError) as error:
        click.echo(str(error), err=True)
        return False
    finally:
        held.give_back(shard)  # it need not wait for the others
    return True


def _told(shards: Iterable[int]) -> str:
    return ", ".join(map(str, shards)) or "none"
