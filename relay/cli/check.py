"""``relay check``: what the relay needs, and how to fix what is wrong."""

import os
import sys
from collections import Counter

import click

from outbox.operators.format import escape, plural
from relay.cli.options import JSON
from relay.cli.output import ExitCode, to_json

WIDTH = 8
COLORS = {"ok": "green", "warning": "yellow", "unknown": "yellow", "failure": "red"}


@click.command()
@JSON
def check(*, json_lines: bool) -> None:
    """Check settings and services, and suggest fixes.

    Checks settings, database, broker, permissions, topics, registry, inference and OAuth. Safe beside
    running relays: it never uses a shard's transactional id, commits nothing to a topic and registers
    nothing. Exit code 4 if a check failed; warnings exit with 0.

    \b
    Examples:
      relay check
      relay check --json | jq 'select(.verdict != "ok")'
    """
    from relay.check import check_all
    from relay.check.finding import Status, as_json

    counts: Counter[Status] = Counter()
    for finding in check_all(os.environ):
        counts[finding.status] += 1
        if json_lines:
            click.echo(to_json(as_json(finding)))
            continue
        status = click.style(f"{finding.status:<{WIDTH}}", fg=COLORS[finding.status])
        click.echo(f"{status} {escape(finding.subject)}: {escape(finding.detail)}")
        if finding.remedy:
            click.echo(f"{'':<{WIDTH}} remedy: {escape(finding.remedy)}")
    warnings, failures = plural(counts[Status.WARNING], "warning"), plural(counts[Status.FAILURE], "failure")
    click.echo(f"{counts[Status.OK]} ok, {warnings}, {counts[Status.UNKNOWN]} unknown, {failures}", err=True)
    sys.exit(ExitCode.CHECK_FAILED if counts[Status.FAILURE] else ExitCode.DONE)
