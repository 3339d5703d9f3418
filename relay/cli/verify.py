"""``relay verify``: compare the topic with the outbox."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outbox.operators.format import escape
from outbox.operators.verification import OutboxReader
from relay.cli.errors import usage_errors
from relay.cli.options import JSON
from relay.cli.output import ExitCode, exit_nothing_matched, to_json
from relay.cli.param_types import TimeParam, Timestamp
from relay.cli.session import open_outbox_for_shards
from relay.cli.verdict_text import format_verdict
from relay.verify.verifier import SETTLED_MS, Report, Verifier


@click.command()
@click.option("--since", type=TimeParam(), help="Verify rows received at or after this time [default: the oldest row].")
@click.option("--until", type=TimeParam(), help="Verify rows received before this time [default: a minute ago].")
@click.option("--values", is_flag=True, help="Compare the content of each record with its row, too.")
@click.option("--shared-topic", is_flag=True, help="Other outboxes write to the topic: their records are no fault.")
@JSON
@usage_errors()
def verify(
    *, since: Timestamp | None, until: Timestamp | None, values: bool, shared_topic: bool, json_lines: bool
) -> None:
    """Prove from the topic that each row was delivered once.

    Reads the topic as its consumers do and compares it with the rows that were received in the range: each
    row that is marked sent is there once, in order within its interaction, and nothing else is. Exit code 4
    if there is a fault. Changes nothing; safe beside running relays.

    \b
    Examples:
      relay verify --since yesterday --until today
      relay verify --since 2h --values --json | jq .faults
    """
    if since and until and since.ms >= until.ms:
        raise click.UsageError(f"--since {since.text} is not before --until {until.text}")
    with open_outbox_for_shards() as (engine, settings), _progress() as report:
        until_ms = until.ms if until else OutboxReader(engine).now_ms() - SETTLED_MS
        verdict = Verifier(
            engine,
            settings,
            since.ms if since else None,
            until_ms,
            values=values,
            shared_topic=shared_topic,
            report=report,
        ).run_pass()
    if json_lines:
        click.echo(to_json(verdict.as_json()))
    elif not verdict.rows and verdict.is_clean:
        exit_nothing_matched("verify: no row was received in this time")
    else:
        for line in format_verdict(verdict):
            click.echo(escape(line))
    sys.exit(ExitCode.DONE if verdict.is_clean else ExitCode.CHECK_FAILED)


@contextmanager
def _progress() -> Iterator[Report]:
    """Show on a terminal how many rows and records were read."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks = {what: bar.add_task(what, total=None) for what in ("rows", "records")}
        yield lambda what, done, total: bar.update(tasks[what], completed=done, total=total)
