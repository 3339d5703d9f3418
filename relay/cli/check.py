"""``relay check``: what the relay needs, each problem with its cure."""

import os
import sys
from collections import Counter

import click

from relay.cli.options import CHECK_FAILED, DONE, JSON
from relay.cli.output import escaped, to_json

WIDTH = 8
COLOURS = {"ok": "green", "warning": "yellow", "unknown": "yellow", "failure": "red"}


@click.command()
@JSON
def check(*, json_lines: bool) -> None:
    """Check settings and services, and say how to fix each.

    Looks at settings, database, broker, rights, topics, registry, inference and OAuth. Safe beside running
    relays: it never uses a shard's transactional id, commits nothing to a topic and registers nothing. Exit
    code 4 if a check failed; warnings are 0.

    \b
    Examples:
      relay check
      relay check --json | jq 'select(.verdict != "ok")'
    """
    from relay.check import check_all
    from relay.check.finding import Status

    counts: Counter[Status] = Counter()
    for finding in check_all(os.environ):
        counts[finding.verdict] += 1
        if json_lines:
            click.echo(to_json(finding._asdict()))
            continue
        verdict = click.style(f"{finding.verdict:<{WIDTH}}", fg=COLOURS[finding.verdict])
        click.echo(f"{verdict} {escaped(finding.subject)}: {escaped(finding.seen)}")
        if finding.cure:
            click.echo(f"{'':<{WIDTH}} cure: {escaped(finding.cure)}")
    warnings = counts[Status.WARNING] + counts[Status.UNKNOWN]
    click.echo(f"{counts[Status.OK]} ok, {warnings} warning(s), {counts[Status.FAILURE]} failure(s)", err=True)
    sys.exit(CHECK_FAILED if counts[Status.FAILURE] else DONE)
