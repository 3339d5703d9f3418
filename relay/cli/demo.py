"""``relay demo``: everything on this machine, with a kill -9 in the middle, and a count at the end."""

import os
import random
import shlex
import signal
import sys
import threading
import time
from collections import Counter

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from outbox.db.engine import create_outbox_engine
from outbox.store import Store
from relay.cli.options import DONE, FAILED, WholeNumber
from relay.demo.clients import Arrived, post_all, read_topic
from relay.demo.processes import PATH, DemoError, DemoProcesses

SHOWN_SETTINGS = (
    "DATABASE_URL",
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_TOPIC",
    "KAFKA_PROGRESS_TOPIC",
    "KAFKA_TRANSACTIONAL_ID_PREFIX",
    "SCHEMA_REGISTRY_URL",
)
"""What commands beside the demo need; a login stays in the environment that it came from."""
FEWEST, MOST = 10, 5_000
DRAIN_SECONDS = 180.0
KILLS = 3

console = Console()


@click.command()
@click.option(
    "--count",
    type=WholeNumber(FEWEST, MOST),
    default=2_000,
    show_default=True,
    help=f"How many interactions to post, up to {MOST}.",
)
@click.option("--stay", is_flag=True, help="Post nothing, and stay up with a curl line to try.")
def demo(*, count: int, stay: bool) -> None:
    """Post sample interactions and count them in Kafka.

    Web and relay run on this machine. The relay is killed (kill -9) meanwhile, and each interaction must be
    in the topic exactly once nevertheless. With KAFKA_BOOTSTRAP_SERVERS a real broker is used, otherwise
    librdkafka's mock cluster.

    \b
    Examples:
      relay demo --count 5000
      KAFKA_BOOTSTRAP_SERVERS=localhost:9092 relay demo
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # no process is left behind
        signal.signal(number, signal.default_int_handler)
    stage = DemoProcesses(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
    try:
        stage.start_kafka()
        stage.start_web()
        _introduce(stage)
        sys.exit(_stay(stage) if stay else _show(stage, count))
    except KeyboardInterrupt:
        console.print("\nstopped")
        sys.exit(DONE if stay else FAILED)
    finally:
        stage.close()


def _introduce(stage: DemoProcesses) -> None:
    kafka = "the mock cluster of Kafka's C client, at" if stage.mock else "the cluster at"
    registry = stage.environ["SCHEMA_REGISTRY_URL"]
    registry += " (a local stub)" if registry.startswith(stage.standins.base) else ""
    for name, what in (
        ("Webhook", f"{stage.base}{PATH} (gunicorn)"),
        ("Outbox", f"{stage.database} (SQLite; the logs are beside it)"),
        ("Kafka", f"{kafka} {stage.bootstrap_servers}"),
        ("Topic", stage.topic),
        ("Registry", registry),
        ("Inference", f"{stage.standins.base}/score (a local stub)"),
    ):
        console.print(f"[bold]{name:<9}[/bold] {escape(what)}", highlight=False, soft_wrap=True)


def _stay(stage: DemoProcesses) -> int:
    stage.start_relay()
    exports = " ".join(f"{name}={shlex.quote(stage.environ[name])}" for name in SHOWN_SETTINGS)
    relay = f"{shlex.quote(sys.executable)} -m relay"
    click.echo(
        "\nIn another terminal, post an interaction:\n\n"
        f"  curl -i {stage.base}{PATH} -H 'X-CXone-Webhook-Secret: {stage.secret}' \\\n"
        """    -d '{"id": "interaction-1", "channel": "voice"}'\n\n"""
        "Then look at it:\n\n"
        f"  export {exports}\n"
        f"  {relay} status\n"
        f"  {relay} show 1\n\n"
        "Ctrl-C here stops everything."
        + (" The mock cluster keeps about 5 MB a partition, and drops older records." if stage.mock else "")
    )
    while not stage.relay_gave_up():
        time.sleep(0.5)
    raise DemoError(f"the relay has ended; its log is {stage.folder / 'relay.log'}")


def _show(stage: DemoProcesses, count: int) -> int:
    accepted: list[int] = []
    senders = threading.Thread(
        target=post_all, args=(f"{stage.base}{PATH}", stage.secret, count, accepted.append), daemon=True
    )
    moment = (
        "each time after Kafka has committed a transaction and before the outbox has marked its rows"
        if stage.mock
        else "at random moments"
    )
    console.print(
        f"\nPosting {count:,} interactions. Meanwhile the relay is killed (kill -9) up to {KILLS} times, {moment}.\n"
    )
    store = Store(create_outbox_engine(stage.environ["DATABASE_URL"]))
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        posted, sent = progress.add_task("accepted", total=count), progress.add_task("sent", total=count)
        senders.start()
        kills, deadline = _Kills(stage), time.monotonic() + DRAIN_SECONDS
        while True:
            status = store.status()
            pending = sum(shard.pending for shard in status)
            progress.update(posted, completed=len(accepted))
            progress.update(sent, completed=len(set(accepted)) - pending)
            if not senders.is_alive() and not pending and kills.count and not stage.relay_was_killed():
                break
            kills.go_on(len(accepted) - pending, count)
            if stage.relay_gave_up() or time.monotonic() > deadline:
                reasons = "; ".join(filter(None, (shard.condition for shard in status))) or "the relay has ended"
                raise DemoError(f"the rows are not sent: {reasons}; the relay's log is {stage.folder / 'relay.log'}")
            time.sleep(0.05)
    _wait_for_scores(stage, len(set(accepted)))
    return _count(stage, count, accepted, kills.count)


class _Kills:
    """Starts the relay, and starts it again after each kill."""

    def __init__(self, stage: DemoProcesses) -> None:
        self._stage, self.count = stage, 0
        self._random = random.Random()  # noqa: S311 - moments, not secrets
        self._start()

    @property
    def done(self) -> bool:
        """Whether all kills have happened and a relay is up that stays."""
        return self.count >= KILLS

    def go_on(self, sent: int, total: int) -> None:
        """Kill a relay that has sent its part of the rows, and start anew what was killed."""
        if not self._stage.mock and not self.done and sent > self._part * total:
            self._stage.kill_relay()
        if self._stage.relay_was_killed():
            self.count += 1
            console.print(f"relay killed ({self.count} of {KILLS}), a new one takes over")
            self._start()

    def _start(self) -> None:
        self._part = (self.count + self._random.uniform(0.1, 0.9)) / (KILLS + 1)
        if self._stage.mock and not self.done:
            self._stage.start_relay("committed", 1)
        else:
            self._stage.start_relay()


def _wait_for_scores(stage: DemoProcesses, expected: int) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    while len(stage.standins.scored) < expected and time.monotonic() < deadline:
        time.sleep(0.1)


def _count(stage: DemoProcesses, posted: int, accepted: list[int], kills: int) -> int:
    arrived = read_topic(stage.client_config, stage.topic)
    times = Counter(record.outbox_id for record in arrived)
    wanted = set(accepted)
    doubled = sum(count - 1 for count in times.values())
    lost, foreign = len(wanted - set(times)), len(set(times) - wanted)
    console.print("\nThe topic, as a read_committed consumer reads it:\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for what, number in (
        ("interactions posted", posted),
        ("accepted by the webhook (202)", len(wanted)),
        ("kills of the relay", kills),
        ("records in the topic", len(arrived)),
        ("duplicates", doubled),
        ("lost", lost),
        ("never accepted", foreign),
        ("inference calls answered", len(stage.standins.scored)),
    ):
        table.add_row(what, f"{number:,}")
    console.print(table)
    _print_first(arrived)
    if doubled or lost or foreign or not wanted:
        console.print(f"[red]The counts differ; the logs are in {escape(str(stage.folder))}[/red]")
        return FAILED
    console.print("[green]Each accepted interaction is in the topic exactly once.[/green]")
    return DONE


def _print_first(arrived: list[Arrived]) -> None:
    console.print("\nThe first records, decoded:\n")
    for record in sorted(arrived, key=lambda each: each.outbox_id)[:3]:
        console.print(f"  {record.value}", highlight=False, markup=False, soft_wrap=True)
    console.print()
