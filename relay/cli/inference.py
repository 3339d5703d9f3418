"""``relay inference``: calls that the endpoint refused, or that failed too often."""

import sys
from dataclasses import replace
from typing import Any

import click

from outbox.operators.rows import RowFilter
from outbox.states import RowState
from relay.cli.change import Asked, Change, carry_out, changing, plan_of
from relay.cli.groups import Group
from relay.cli.list import told_row
from relay.cli.options import JSON, as_options, nothing_matched, operations, row_filters, rows_from
from relay.cli.output import to_json
from relay.cli.repair import as_of_now


@click.group(cls=Group)
def inference() -> None:
    """Look after parked inference calls.

    The endpoint refused them, or they failed too often. Here --error looks in the error of the call.
    """


@inference.command("list")
@row_filters
@JSON
def list_calls(*, json_lines: bool, **given: Any) -> None:
    """List rows whose inference call is parked.

    Each is shown with the error of its call.

    \b
    Examples:
      relay inference list --all
      relay inference list --error "HTTP 422" --since 1d --json
    """
    wanted = _parked(rows_from(given))
    matched = False
    with operations() as (verbs, _):
        for row in verbs.parked_calls(wanted):
            matched = True
            click.echo(to_json(row._asdict()) if json_lines else told_row(row))
    if not matched:
        nothing_matched("inference list: no parked call matches")


@inference.command("retry")
@row_filters
@changing
def retry_calls(**given: Any) -> None:
    """Call the inference endpoint again for parked calls.

    Each call is due again, with all its attempts ahead of it.

    \b
    Examples:
      relay inference retry --error "HTTP 422" --reason "model 7 takes these"
      relay inference retry --since 2h --dry-run
    """
    asked = Asked.taken_from(given)
    wanted = _parked(rows_from(given))
    with operations() as (verbs, settings):
        context = asked.context(wanted, settings)
        again = ("inference", "retry", *as_options(as_of_now(wanted)))
        plan = plan_of(verbs.parked_calls(wanted))
        told = "the endpoint is called again for each, with the same Idempotency-Key"
        nothing = "no row matches whose inference call is parked"
        change = Change(
            "inference retry", plan, lambda chunk: verbs.retry_calls(chunk, context), (told,), again, nothing
        )
        sys.exit(carry_out(change, asked))


def _parked(wanted: RowFilter) -> RowFilter:
    if wanted.state not in (None, RowState.PARKED):
        raise click.UsageError(f"only parked calls are looked after here, not {wanted.state} ones")
    return replace(wanted, state=RowState.PARKED.value)
