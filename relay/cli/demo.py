"""``relay demo``: the whole product on this machine, with kills of the relay and a count at the end."""

import os
import shlex
import signal
import sys
import time

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from relay.cli.output import ExitCode
from relay.cli.param_types import IntegerParam
from relay.demo.processes import CONSOLE_USER, DemoError, DemoProcesses
from relay.demo.scenario import KILLS, DemoResult, run_scenario

SHOWN_SETTINGS = (
    "DATABASE_URL",
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_TOPIC",
    "KAFKA_PROGRESS_TOPIC",
    "KAFKA_TRANSACTIONAL_ID_PREFIX",
    "SCHEMA_REGISTRY_URL",
)
"""What a command beside the demo needs. Credentials stay in the environment that they came from."""
MIN_COUNT, MAX_COUNT = 10, 5_000

console = Console()


@click.command()
@click.option(
    "--count",
    type=IntegerParam(MIN_COUNT, MAX_COUNT),
    default=2_000,
    show_default=True,
    help=f"Post this many interactions, {MIN_COUNT} to {MAX_COUNT}.",
)
@click.option(
    "--stay", is_flag=True, help="Post nothing; keep running, with the console, and print a curl command to try."
)
def demo(*, count: int, stay: bool) -> None:
    """Post sample interactions and count them in Kafka.

    Web and relay run on this machine. The relay is killed (kill -9) meanwhile; each interaction must
    nevertheless be in the topic exactly once. Uses the broker of KAFKA_BOOTSTRAP_SERVERS if it is set,
    otherwise librdkafka's mock cluster.

    \b
    Examples:
      relay demo --count 5000
      KAFKA_BOOTSTRAP_SERVERS=localhost:9092 relay demo
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # stop the demo's processes, too
        signal.signal(number, signal.default_int_handler)
    processes = DemoProcesses(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
    code = ExitCode.FAILED
    try:
        processes.start_kafka()
        processes.start_web()
        if stay:
            processes.start_console()
        _print_addresses(processes, has_console=stay)
        code = _stay(processes) if stay else _run(processes, count)
    except KeyboardInterrupt:
        code = ExitCode.DONE if stay else ExitCode.FAILED
        console.print("\nstopped" if stay else f"\nstopped; the logs are in {escape(str(processes.folder))}")
    finally:
        processes.close(keep_logs=code != ExitCode.DONE)
    sys.exit(code)


def _print_addresses(processes: DemoProcesses, *, has_console: bool) -> None:
    kafka = "mock cluster of librdkafka at" if processes.mock else "cluster at"
    registry = processes.environ["SCHEMA_REGISTRY_URL"]
    registry += " (local stub)" if registry.startswith(processes.stubs.base) else ""
    login = f"sign in as {CONSOLE_USER}, password {processes.console_password}"
    addresses = [
        ("Webhook", f"{processes.webhook_url} (gunicorn)"),
        ("Outbox", f"{processes.database} (SQLite; the directory also has the logs and is removed on success)"),
        ("Kafka", f"{kafka} {processes.bootstrap_servers}"),
        ("Topic", processes.topic),
        ("Registry", registry),
        ("Inference", f"{processes.stubs.base}/score (local stub)"),
        *([("Console", f"{processes.console_url} ({login})")] if has_console else []),
    ]
    for name, value in addresses:
        console.print(f"[bold]{name:<9}[/bold] {escape(value)}", highlight=False, soft_wrap=True)


def _stay(processes: DemoProcesses) -> ExitCode:
    """Run until Ctrl-C."""
    processes.start_relay()
    shown = (*SHOWN_SETTINGS, "KAFKA_CONFIG") if processes.mock else SHOWN_SETTINGS
    exports = " ".join(f"{name}={shlex.quote(processes.environ[name])}" for name in shown)
    relay = f"{shlex.quote(sys.executable)} -m relay"
    mock = (
        " The mock cluster keeps about 5 MB per partition and drops older records. Only the newest 100 of a partition "
        "are found, and relay check gets no answer: for both use a real broker (make up KAFKA=real, or "
        "KAFKA_BOOTSTRAP_SERVERS)."
        if processes.mock
        else ""
    )
    click.echo(
        "\nIn another terminal, post an interaction:\n\n"
        f"  curl -i {processes.webhook_url} -H 'X-CXone-Webhook-Secret: {processes.secret}' \\\n"
        """    -d '{"id": "interaction-1", "channel": "voice"}'\n\n"""
        "Then see what became of it, in the console or with commands:\n\n"
        f"  export {exports}\n"
        f"  {relay} status\n"
        f"  {relay} show 1\n\n"
        f"Ctrl-C stops everything and removes the outbox.{mock}"
    )
    while not processes.relay_stopped():
        time.sleep(0.5)
    raise DemoError(f"the relay has stopped; its log is {processes.log_of('relay')}")


def _run(processes: DemoProcesses, count: int) -> ExitCode:
    """Run the scenario and print its result."""
    moment = (
        "each time after Kafka has committed a transaction and before the outbox has marked its rows"
        if processes.mock
        else "at random moments"
    )
    console.print(
        f"\nPosting {count:,} interactions. Meanwhile the relay is killed (kill -9) up to {KILLS} times, {moment}.\n"
    )
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        accepted_bar, sent_bar = (progress.add_task(name, total=count) for name in ("accepted", "sent"))

        def report_progress(accepted: int, sent: int) -> None:
            progress.update(accepted_bar, completed=accepted)
            progress.update(sent_bar, completed=sent)

        result = run_scenario(processes, count, report_progress, _print_kill)
    _print_result(result)
    if result.exactly_once:
        console.print("[green]Each accepted interaction is in the topic exactly once.[/green]")
        console.print("To post some yourself and follow them in the console: make up, or relay demo --stay")
        return ExitCode.DONE
    console.print(f"[red]The counts differ; the logs are in {escape(str(processes.folder))}[/red]")
    return ExitCode.FAILED


def _print_kill(kills: int) -> None:
    console.print(f"relay killed ({kills} of {KILLS}), a new one takes over")


def _print_result(result: DemoResult) -> None:
    console.print("\nThe topic, as a read_committed consumer reads it:\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, number in (
        ("interactions posted", result.posted),
        ("accepted by the webhook (202)", len(result.accepted)),
        ("kills of the relay", result.kills),
        ("records in the topic", len(result.records)),
        ("duplicates", result.duplicates),
        ("lost", result.lost),
        ("never accepted", result.unexpected),
        ("inference calls answered", result.scored),
    ):
        table.add_row(name, f"{number:,}")
    console.print(table)
    console.print("\nThe first records, decoded:\n")
    for record in sorted(result.records, key=lambda each: each.outbox_id)[:3]:
        console.print(f"  {record.value}", highlight=False, markup=False, soft_wrap=True)
    console.print()
