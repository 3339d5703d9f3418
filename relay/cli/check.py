"""``relay check``: what the relay rests on, each with its cure."""

import json
import os
import sys
from collections import Counter

import click

from relay.cli.shared import CHECK_FAILED, DONE, escaped

WIDTH = 8
COLOURS = {"ok": "green", "warning": "yellow", "unknown": "yellow", "failure": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding and line.")
def check(*, as_json: bool) -> None:
    """Diagnose settings, database, broker, rights, topics, registry, inference and OAuth, each with its cure.

    Safe beside running relays: it never uses a shard's transactional id, commits nothing to a topic and
    registers nothing. Exit code 4 if a check failed; warnings are 0.

    \b
    Examples:
      relay check
      relay check --json | jq 'select(.verdict != "ok")'
    """
    from relay.check import check_all
    from relay.check.findings import Verdict

    counts: Counter[Verdict] = Counter()
    for finding in check_all(os.environ):
        counts[finding.verdict] += 1
        if as_json:
            click.echo(json.dumps(finding._asdict()))
            continue
        verdict = click.style(f"{finding.verdict:<{WIDTH}}", fg=COLOURS[finding.verdict])
        click.echo(f"{verdict} {escaped(finding.subject)}: {escaped(finding.seen)}")
        if finding.cure:
            click.echo(f"{'':<{WIDTH}} cure: {escaped(finding.cure)}")
    warnings = counts[Verdict.WARNING] + counts[Verdict.UNKNOWN]
    click.echo(f"{counts[Verdict.OK]} ok, {warnings} warning(s), {counts[Verdict.FAILURE]} failure(s)", err=True)
    sys.exit(CHECK_FAILED if counts[Verdict.FAILURE] else DONE)
