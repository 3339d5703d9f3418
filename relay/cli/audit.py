"""``relay audit``: who did what, and whether the record is whole."""

import json
import sys

import click

from outbox.operations import Operations
from outbox.rows import AuditEntry
from relay.cli.shared import CHECK_FAILED, DONE, escaped, nothing_matched, operations, told_time

SHOWN_IDS = 10


@click.command()
@click.option("--id", "row_id", type=click.IntRange(1, 2**63 - 1), help="Only what was done to this row.")
@click.option("--verify", is_flag=True, help="Check the chain of hashes; exit code 4 if an entry was changed.")
@click.option("--head", help="With --verify: a hash it ended with once, which must still be in it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def audit(*, row_id: int | None, verify: bool, head: str | None, as_json: bool) -> None:
    """Who changed which rows, when and why; oldest first.

    \b
    Examples:
      relay audit --json | jq 'select(.verb == "discard")'
      relay audit --verify
    """
    if head and not verify:
        raise click.UsageError("--head goes with --verify")
    with operations() as (verbs, _):
        if verify:
            _verify(verbs, head, as_json=as_json)
            return
        matched = False
        for entry in verbs.audit(row_id):
            matched = True
            ids = json.loads(entry.row_ids)
            if as_json:
                told = {**entry._asdict(), "filter": json.loads(entry.filter), "rows": len(ids), "row_ids": ids}
                click.echo(json.dumps(told))
            else:
                shown = ", ".join(map(str, ids[:SHOWN_IDS])) + (", …" if len(ids) > SHOWN_IDS else "")
                rows = f" {len(ids)} row(s) ({shown})" if ids else ""  # a pause is of shards
                line = f"{told_time(entry.at_ms)} {_who(entry)} {entry.verb}{rows}"
                click.echo(escaped(f"{line}: {entry.reason} {entry.filter}"))
    if not matched:
        nothing_matched("audit: no entry")


def _who(entry: AuditEntry) -> str:
    """The actor as named, and the user of the process where that is another."""
    return entry.actor if entry.os_user in (None, entry.actor) else f"{entry.actor} (as {entry.os_user})"


def _verify(verbs: Operations, head: str | None, *, as_json: bool) -> None:
    found = verbs.verify(head)
    if as_json:
        broken = found.broken.id if found.broken else None
        told = {"entries": found.entries, "last_hash": found.last_hash, "broken": broken, "holds": found.holds}
        click.echo(json.dumps(told))
        sys.exit(DONE if broken is None and found.holds else CHECK_FAILED)
    if found.broken is not None:
        click.echo(f"entry {found.broken.id} or one just before it was changed or removed", err=True)
        sys.exit(CHECK_FAILED)
    if not found.holds:
        click.echo(escaped(f"no entry has the hash {head}: entries were cut off, or all were written anew"), err=True)
        sys.exit(CHECK_FAILED)
    click.echo(f"each of {found.entries} entries follows from the one before it; the last hash is {found.last_hash}")
