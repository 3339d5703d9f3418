"""``relay audit``: who changed what, and whether the audit log is intact."""

import json
import sys

import click

from outbox.operators.audit import AuditEntry, ChainReport
from outbox.operators.format import escape, format_actor, format_time, plural
from relay.cli.options import JSON
from relay.cli.output import ExitCode, print_lines, to_json
from relay.cli.param_types import RowIdParam
from relay.cli.session import open_operations

SHOWN_IDS = 10


@click.command()
@click.option("--id", "row_id", type=RowIdParam(), help="Show only changes of the row with this outbox id.")
@click.option("--verify", is_flag=True, help="Verify the hash chain; exit code 4 if an entry was changed or removed.")
@click.option("--head", metavar="HASH", help="With --verify: a hash noted earlier that the log must still contain.")
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
        raise click.UsageError("--head requires --verify")
    with open_operations() as (operations, _):
        if verify:
            report = operations.verify(head)
            (_print_json if json_lines else _print_report)(report, head)
            sys.exit(ExitCode.DONE if report.broken is None and report.holds else ExitCode.CHECK_FAILED)
        format_entry = _entry_json if json_lines else _format_entry
        print_lines(map(format_entry, operations.audit(row_id)), "audit: no entry matches")


def _entry_json(entry: AuditEntry) -> str:
    ids = json.loads(entry.row_ids)
    return to_json({**entry._asdict(), "filter": json.loads(entry.filter), "rows": len(ids), "row_ids": ids})


def _format_entry(entry: AuditEntry) -> str:
    ids = json.loads(entry.row_ids)
    shown = ", ".join(map(str, ids[:SHOWN_IDS])) + (", …" if len(ids) > SHOWN_IDS else "")
    rows = f" {plural(len(ids), 'row')} ({shown})" if ids else ""  # a pause changes no row
    line = f"{format_time(entry.at_ms)} {format_actor(entry)} {entry.verb}{rows}"
    return escape(f"{line}: {entry.reason} {entry.filter}")


def _print_json(report: ChainReport, _head: str | None) -> None:
    broken = report.broken.id if report.broken else None
    fields = {"entries": report.entries, "last_hash": report.last_hash, "broken": broken, "holds": report.holds}
    click.echo(to_json(fields))


def _print_report(report: ChainReport, head: str | None) -> None:
    if report.broken is not None:
        click.echo(f"entry {report.broken.id} or the one before it was changed or removed", err=True)
    elif not report.holds:
        message = f"no entry has the hash {head}: the newest entries were removed, or the log was rewritten"
        click.echo(escape(message), err=True)
    else:
        click.echo(f"verified entries: {report.entries}; last hash: {report.last_hash}")
