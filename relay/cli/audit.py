"""``relay audit``: who did what, and whether the record is whole."""

import json
import sys

import click

from relay.cli.shared import CHECK_FAILED, NOTHING_MATCHED, escaped, operations, told_time

SHOWN_IDS = 10


@click.command()
@click.option("--verify", is_flag=True, help="Check the chain of hashes; exit code 4 if an entry was changed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def audit(*, verify: bool, as_json: bool) -> None:
    """Who changed which rows, when and why; oldest first.

    \b
    Examples:
      relay audit --json | jq 'select(.verb == "discard")'
      relay audit --verify
    """
    with operations() as (verbs, _):
        if verify:
            broken = verbs.first_broken_entry()
            if broken is not None:
                click.echo(f"entry {broken.id} or one just before it was changed or removed", err=True)
                sys.exit(CHECK_FAILED)
            click.echo("every entry follows from the one before it")
            return
        matched = False
        for entry in verbs.audit():
            matched = True
            ids = json.loads(entry.row_ids)
            if as_json:
                click.echo(json.dumps({**entry._asdict(), "filter": json.loads(entry.filter), "row_ids": ids}))
            else:
                shown = ", ".join(map(str, ids[:SHOWN_IDS])) + (", …" if len(ids) > SHOWN_IDS else "")
                line = f"{told_time(entry.at_ms)} {entry.actor} {entry.verb} {len(ids)} row(s) ({shown})"
                click.echo(escaped(f"{line}: {entry.reason} {entry.filter}"))
    if not matched:
        sys.exit(NOTHING_MATCHED)
