"""``relay inference``: calls that the endpoint refused, or that failed too often."""

import json
import sys
from dataclasses import replace
from typing import Any

import click

from outbox.rows import RowFilter
from outbox.states import RowState
from relay.cli.changing import Asked, Change, carry_out, changing, plan_of
from relay.cli.list import told_row
from relay.cli.repair import as_of_now
from relay.cli.shared import as_options, nothing_matched, operations, row_filters, rows_from


@click.group()
def inference() -> None:
    """Look after inference calls that are parked. --error is a part of the call's error here."""


@inference.command("list")
@row_filters
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_calls(*, as_json: bool, **given: Any) -> None:
    """Rows whose inference call is parked, with the error of the call.

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
            click.echo(json.dumps(row._asdict()) if as_json else told_row(row))
    if not matched:
        nothing_matched("inference list: no parked call matches")


@inference.command("retry")
@row_filters
@changing
def retry_calls(**given: Any) -> None:
    """Make parked inference calls due again, with all their attempts before them.

    \b
    Examples:
      relay inference retry --error "HTTP 422" --reason "model 7 takes these"
      relay inference retry --since 2h --dry-run --reason "looking"
    """
    asked = Asked.taken_from(given)
    wanted = _parked(rows_from(given))
    with operations() as (verbs, settings):
        order = asked.order(wanted, settings)
        again = ("inference", "retry", *as_options(as_of_now(wanted)))
        plan = plan_of(verbs.parked_calls(wanted))
        told = "the endpoint is called again for each, with the same Idempotency-Key"
        change = Change("inference retry", plan, lambda chunk: verbs.retry_calls(chunk, order), (told,), again)
        sys.exit(carry_out(change, asked))


def _parked(wanted: RowFilter) -> RowFilter:
    if wanted.state not in (None, RowState.PARKED):
        raise click.UsageError(f"only parked calls are looked after here, not {wanted.state} ones")
    return replace(wanted, state=RowState.PARKED.value)
