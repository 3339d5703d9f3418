"""``relay demo``: everything on this machine, with a kill -9 in the middle, and a count at the end."""

import os
import random
import sys
import threading
import time
from collections import Counter

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from outbox.engine import create_outbox_engine
from outbox.store import Store
from relay.demo.audience import Arrived, post_all, read_topic
from relay.demo.stage import PATH, Stage, StageError

MOST = 5_000
DRAIN_SECONDS = 180.0
KILLS = 3

console = Console()


@click.command()
@click.option("--count", type=click.IntRange(10, MOST), default=2_000, show_default=True, help="Interactions to post.")
@click.option("--stay", is_flag=True, help="Stay up instead, with a curl line to try.")
def demo(*, count: int, stay: bool) -> None:
    """Post sample interactions over HTTP and see each arrive in Kafka exactly once, kill -9 included.

    With KAFKA_BOOTSTRAP_SERVERS a real broker is used, otherwise librdkafka's mock cluster.

    \b
    Examples:
      relay demo --count 5000
      KAFKA_BOOTSTRAP_SERVERS=localhost:9092 relay demo
    """
    stage = None
    try:
        stage = Stage(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
        stage.start_web()
        _introduce(stage)
        sys.exit(_stay(stage) if stay else _show(stage, count))
    except StageError as error:
        console.print(f"[red]{error}[/red]")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("ended")
    finally:
        if stage is not None:
            stage.close()


def _introduce(stage: Stage) -> None:
    broker = "librdkafka's mock cluster (a stand-in, in a process of its own)" if stage.mock else "your Kafka cluster"
    console.print(f"[bold]Kafka[/bold]     {broker}, {stage.bootstrap_servers}, topic {stage.topic}")
    registry = stage.environ["SCHEMA_REGISTRY_URL"]
    named = "a stand-in" if registry.startswith(stage.standins.base) else "yours"
    console.print(f"[bold]Registry[/bold]  {registry} ({named})")
    console.print(f"[bold]Webhook[/bold]   {stage.base}{PATH} (gunicorn)")
    console.print(f"[bold]Outbox[/bold]    {stage.database} (SQLite); logs beside it")
    console.print(f"[bold]Scoring[/bold]   {stage.standins.base}/score (a local stub)")


def _stay(stage: Stage) -> int:
    stage.start_relay()
    console.print("\nTry it (Ctrl-C ends everything):\n", highlight=False)
    sys.stdout.write(
        f"curl -i {stage.base}{PATH} -H 'X-CXone-Webhook-Secret: {stage.secret}' \\\n"
        """  -d '{"id": "interaction-1", "channel": "voice"}'\n\n"""
        f"DATABASE_URL={stage.environ['DATABASE_URL']} {sys.executable} -m relay status\n"
    )
    if stage.mock:
        console.print("\nThe mock cluster keeps about 5 MB a partition and forgets older records.")
    sys.stdout.flush()
    while not stage.relay_gave_up():
        time.sleep(0.5)
    raise StageError(f"the relay has ended: see {stage.folder / 'relay.log'}")


def _show(stage: Stage, count: int) -> int:
    accepted: list[int] = []
    senders = threading.Thread(
        target=post_all, args=(f"{stage.base}{PATH}", stage.secret, count, accepted.append), daemon=True
    )
    if stage.mock:
        console.print(
            "\nThe relay kills itself (-9) between the commit in Kafka and the mark in the outbox, "
            f"up to {KILLS} times: the one place where the mock is exact.\n"
        )
    else:
        console.print(f"\nThe relay is killed (-9) at random moments, up to {KILLS} times.\n")
    store = Store(create_outbox_engine(stage.environ["DATABASE_URL"]))
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        posted, sent = progress.add_task("accepted", total=count), progress.add_task("sent", total=count)
        senders.start()
        kills, deadline = _Kills(stage), time.monotonic() + DRAIN_SECONDS
        while True:
            pending = sum(shard.pending for shard in store.status())
            progress.update(posted, completed=len(accepted))
            progress.update(sent, completed=len(set(accepted)) - pending)
            if not senders.is_alive() and not pending and not stage.relay_was_killed():
                break
            kills.go_on(len(accepted) - pending, count)
            if stage.relay_gave_up() or time.monotonic() > deadline:
                raise StageError(f"the rows are not sent: see {stage.folder / 'relay.log'}")
            time.sleep(0.05)
    _wait_for_scores(stage, len(set(accepted)))
    return _count(stage, accepted, kills.count)


class _Kills:
    """Starts the relay, and starts it again after each kill."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self.count = stage, 0
        self._random = random.Random()  # noqa: S311 - moments, not secrets
        self._next_kill = time.monotonic() + self._random.uniform(2, 4)
        self._start()

    @property
    def done(self) -> bool:
        """Whether all kills have happened and a relay is up that stays."""
        return self.count >= KILLS

    def go_on(self, sent: int, total: int) -> None:
        """Kill when it is time, and start anew what was killed."""
        if not self._stage.mock and not self.done and time.monotonic() > self._next_kill:
            # With nothing left to send, a kill would show nothing: the rest is killed at once.
            self._next_kill = time.monotonic() + self._random.uniform(0.5, 2.5) * (sent < total)
            self._stage.kill_relay()
        if self._stage.relay_was_killed():
            self.count += 1
            console.print(f"kill -9 of the relay, number {self.count}; a new one takes over")
            self._start()

    def _start(self) -> None:
        if self._stage.mock and not self.done:
            self._stage.start_relay("committed", 1)
        else:
            self._stage.start_relay()


def _wait_for_scores(stage: Stage, expected: int) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    while len(stage.standins.scored) < expected and time.monotonic() < deadline:
        time.sleep(0.1)


def _count(stage: Stage, accepted: list[int], kills: int) -> int:
    arrived = read_topic(stage.bootstrap_servers, stage.topic)
    times = Counter(record.outbox_id for record in arrived)
    wanted = set(accepted)
    doubled = sum(count - 1 for count in times.values())
    lost, foreign = len(wanted - set(times)), len(set(times) - wanted)
    table = Table(title="Read from the topic, as a read_committed consumer sees it")
    table.add_column("what")
    table.add_column("count", justify="right")
    for what, number in (
        ("accepted by the webhook (202)", len(wanted)),
        ("in the topic", len(arrived)),
        ("duplicates", doubled),
        ("lost", lost),
        ("never accepted", foreign),
        ("kill -9 of the relay", kills),
        ("scoring calls heard of", len(stage.standins.scored)),
    ):
        table.add_row(what, f"{number:,}")
    console.print(table)
    _print_first(arrived)
    if doubled or lost or foreign or not wanted:
        console.print(f"[red]The counts differ: see the logs in {stage.folder}[/red]")
        return 1
    console.print("[green]Each accepted interaction is in the topic exactly once.[/green]")
    return 0


def _print_first(arrived: list[Arrived]) -> None:
    console.print("First records, decoded:")
    for record in sorted(arrived, key=lambda each: each.outbox_id)[:3]:
        console.print(f"  {record.value}", highlight=False)
