"""``relay verify``: compare the topic with the outbox."""

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial

import click
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from outbox.errors import OutboxMismatchError
from outbox.operators.format import escape
from outbox.operators.verification import OutboxReader, format_stored
from outbox.store import Store
from relay.cli.errors import usage_errors
from relay.cli.options import JSON
from relay.cli.output import ExitCode, exit_nothing_matched, to_json
from relay.cli.param_types import IntegerParam, IntervalParam, TimeParam, Timestamp
from relay.cli.session import ShardSettings, open_outbox_for_shards
from relay.cli.verdict_text import format_verdict
from relay.health import Health
from relay.process.http_server import MetricsServer
from relay.process.verification import VerifyMetrics, watch
from relay.verify.verdict import Verdict
from relay.verify.verifier import SETTLED_MS, Report, Verifier

WATCH_SECONDS = 60.0
"""Default of ``--watch``."""
MIN_WATCH_SECONDS, MAX_WATCH_SECONDS = 1, 3600
OBJECTS_PER_COLLECTION = 100_000
"""More than a page of rows or records has. By default Python looks for reference cycles, of which a verification has
none, after every 700 new objects: that doubles the time of a record."""


@click.command()
@click.option("--since", type=TimeParam(), help="Verify rows received at or after this time [default: the oldest row].")
@click.option("--until", type=TimeParam(), help="Verify rows received before this time [default: a minute ago].")
@click.option("--values", is_flag=True, help="Compare the content of each record with its row, too.")
@click.option("--shared-topic", is_flag=True, help="Other outboxes write to the topic: their records are no fault.")
@click.option(
    "--watch",
    "watch_seconds",
    is_flag=False,
    flag_value=WATCH_SECONDS,
    type=IntervalParam(MIN_WATCH_SECONDS, MAX_WATCH_SECONDS),
    metavar="[SECONDS]",
    help=f"Go on with what is new every {WATCH_SECONDS:.0f} seconds, or at this interval, until Ctrl-C.",
)
@click.option("--metrics-port", type=IntegerParam(1, 65_535), help="With --watch: serve metrics on this port.")
@JSON
@usage_errors()
def verify(
    *,
    since: Timestamp | None,
    until: Timestamp | None,
    values: bool,
    shared_topic: bool,
    watch_seconds: float | None,
    metrics_port: int | None,
    json_lines: bool,
) -> None:
    """Prove from the topic that each row was delivered once.

    Reads the topic as its consumers do and compares it with the rows that were received in the range: each
    row that is marked sent is there once, in order within its interaction, and nothing else is. Exit code 4
    if there is a fault. Safe beside running relays; it only stores its verdict.

    \b
    Examples:
      relay verify --since yesterday --until today
      relay verify --since 2h --values --json | jq .faults
      relay verify --watch --metrics-port 9466
    """
    if since and until and since.ms >= until.ms:
        raise click.UsageError(f"--since {since.text} is not before --until {until.text}")
    if watch_seconds is None and metrics_port is not None:
        raise click.UsageError("--metrics-port needs --watch")
    if watch_seconds is not None and until is not None:
        raise click.UsageError("--watch has no end: leave --until out")
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    with open_outbox_for_shards() as (engine, settings):
        new_verifier = partial(
            Verifier, engine, settings, since.ms if since else None, values=values, shared_topic=shared_topic
        )
        if watch_seconds is None:
            clean = _verify_once(engine, new_verifier, since, until, json_lines=json_lines)
        else:
            with _serve_metrics(settings, metrics_port) as (metrics, health):
                clean = _watch(engine, new_verifier, watch_seconds, metrics, health, json_lines=json_lines)
    sys.exit(ExitCode.DONE if clean else ExitCode.CHECK_FAILED)


# Once ----------------------------------------------------------------------------------------------


def _verify_once(
    engine: Engine,
    new_verifier: Callable[..., Verifier],
    since: Timestamp | None,
    until: Timestamp | None,
    *,
    json_lines: bool,
) -> bool:
    """Verify the range, print the verdict, and return whether it is clean."""
    until_ms = until.ms if until else OutboxReader(engine).now_ms() - SETTLED_MS
    if since and until is None and since.ms >= until_ms:
        raise click.UsageError(f"--since {since.text} is not before --until, which is a minute ago unless it is given")
    with _progress() as report:
        verdict = new_verifier(until_ms, report=report).run_pass()
    if not verdict.rows and verdict.is_clean:
        exit_nothing_matched("verify: no row was received in this time")
    for line in [to_json(verdict.as_json())] if json_lines else map(escape, format_verdict(verdict)):
        click.echo(line)
    Store(engine).store_verdict(verdict.stored)
    return verdict.is_clean


@contextmanager
def _progress() -> Iterator[Report]:
    """Show on a terminal how many rows and records were read."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks = {what: bar.add_task(what, total=None) for what in ("rows", "records")}
        yield lambda what, done, total: bar.update(tasks[what], completed=done, total=total)


# Continuously --------------------------------------------------------------------------------------


@contextmanager
def _serve_metrics(settings: ShardSettings, port: int | None) -> Iterator[tuple[VerifyMetrics, Health]]:
    registry, health = CollectorRegistry(), Health()
    if port is None:
        yield VerifyMetrics(registry), health
        return
    token = settings.metrics_token.get_secret_value().encode() if settings.metrics_token else None
    with closing(MetricsServer(settings.relay_metrics_host, port, registry, health, token, "--metrics-port")):
        yield VerifyMetrics(registry), health


def _watch(
    engine: Engine,
    new_verifier: Callable[..., Verifier],
    seconds: float,
    metrics: VerifyMetrics,
    health: Health,
    *,
    json_lines: bool,
) -> bool:
    """Verify until Ctrl-C or SIGTERM, printing one line for each pass; return whether each verdict was clean."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    clean = True

    def on_pass(verdict: Verdict) -> None:
        nonlocal clean
        clean = clean and verdict.is_clean
        click.echo(to_json(verdict.as_json()) if json_lines else escape(format_stored(verdict.stored)))
        metrics.update(verdict)

    def on_error(error: Exception) -> None:
        if isinstance(error, OutboxMismatchError):
            raise error
        click.echo(escape(error), err=True)

    with suppress(KeyboardInterrupt):
        watch(lambda report: new_verifier(None, report=report), Store(engine), seconds, health, on_pass, on_error)
    return clean
