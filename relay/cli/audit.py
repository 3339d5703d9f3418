"""``relay audit``: who did what, and whether the record is whole."""

import json
import sys

import click

from outbox.operators.change import Operations
from relay.cli.options import CHECK_FAILED, DONE, JSON, RowId, nothing_matched, operations
from relay.cli.output import escaped, to_json, told_actor, told_time

SHOWN_IDS = 10


@click.command()
@click.option("--id", "row_id", type=RowId(), help="Only changes of the row with this outbox id.")
@click.option(
    "--verify", is_flag=True, help="Check the chain of hashes; exit code 4 if an entry was changed or removed."
)
@click.option("--head", metavar="HASH", help="With --verify: a hash noted earlier, which an entry must still have.")
@JSON
def audit(*, row_id: int | None, verify: bool, head: str | None, json_lines: bool) -> None:
    """Show who changed which rows, when and why.

    The oldest entry comes first.

    \b
    Examples:
      relay audit --json | jq 'select(.verb == "discard")'
      relay audit --verify
    """
    if head and not verify:
        raise click.UsageError("--head goes with --verify")
    with operations() as (verbs, _):
        if verify:
            _verify(verbs, head, json_lines=json_lines)
            return
        matched = False
        for entry in verbs.audit(row_id):
            matched = True
            ids = json.loads(entry.row_ids)
            if json_lines:
                told = {**entry._asdict(), "filter": json.loads(entry.filter), "rows": len(ids), "row_ids": ids}
                click.echo(to_json(told))
            else:
                shown = ", ".join(map(str, ids[:SHOWN_IDS])) + (", …" if len(ids) > SHOWN_IDS else "")
                rows = f" {len(ids)} row(s) ({shown})" if ids else ""  # a pause is of shards
                line = f"{told_time(entry.at_ms)} {told_actor(entry)} {entry.verb}{rows}"
                click.echo(escaped(f"{line}: {entry.reason} {entry.filter}"))
    if not matched:
        nothing_matched("audit: no entry")


def _verify(verbs: Operations, head: str | None, *, json_lines: bool) -> None:
    found = verbs.verify(head)
    if json_lines:
        broken = found.broken.id if found.broken else None
        told = {"entries": found.entries, "last_hash": found.last_hash, "broken": broken, "holds": found.holds}
        click.echo(to_json(told))
        sys.exit(DONE if broken is None and found.holds else CHECK_FAILED)
    if found.broken is not None:
        click.echo(f"entry {found.broken.id} or one just before it was changed or removed", err=True)
        sys.exit(CHECK_FAILED)
    if not found.holds:
        click.echo(escaped(f"no entry has the hash {head}: entries were cut off, or all were written anew"), err=True)
        sys.exit(CHECK_FAILED)
    click.echo(f"each of {found.entries} entries follows from the one before it; the last hash is {found.last_hash}")
