"""``relay prune``: remove rows whose way is over."""

import sys
from collections.abc import Callable
from time import time
from typing import Any

import click

from outbox.operators.rows import NONE_GIVEN_UP, PARKED_CALLS_GIVEN_UP, FoundRow, RowFilter
from relay.cli.change import Asked, Change, carry_out, changing, nothing_to, plan_of
from relay.cli.options import OperatorSettings, as_options, operations, row_filters, rows_from
from relay.cli.repair import as_of_now

_NO_FILTER: dict[str, Any] = {
    "ids": (), "interaction": None, "state": None, "channel": None, "error": None, "since": None, "until": None,
}  # fmt: skip


@click.command()
@row_filters
@changing
@click.option(
    "--parked-calls",
    is_flag=True,
    help="Also remove rows whose inference call is parked, which then cannot be retried.",
)
def prune(*, parked_calls: bool, **given: Any) -> None:
    """Remove settled rows.

    Those are sent with their inference call done, or discarded. The relay removes them by itself after
    OUTBOX_RETENTION; without a filter, this does the same now.

    \b
    Examples:
      relay prune --reason "disk is short"
      relay prune --until 2d --dry-run
    """
    asked = Asked.taken_from(given)
    given_up = PARKED_CALLS_GIVEN_UP if parked_calls else NONE_GIVEN_UP
    as_the_relay = not given["everything"] and all(given[name] == value for name, value in _NO_FILTER.items())
    named = None if as_the_relay else rows_from(given)
    with operations() as (verbs, settings):
        wanted = named or _retained(settings)
        context = asked.context(wanted, settings)
        flag = ("--parked-calls",) if parked_calls else ()
        again = ("prune", *(() if as_the_relay else as_options(as_of_now(wanted))), *flag)
        rows = verbs.prunable(wanted, given_up)
        plan = plan_of(filter(_settled_before(wanted.until_ms or 0), rows) if as_the_relay else rows)
        told = "they are removed for good: a repeated delivery of one of them would be a new row"
        nothing = "" if plan else nothing_to(verbs, wanted, "settled")
        change = Change("prune", plan, lambda chunk: verbs.prune(chunk, context, given_up), (told,), again, nothing)
        sys.exit(carry_out(change, asked))


def _retained(settings: OperatorSettings) -> RowFilter:
    if settings.outbox_retention is None:
        raise click.UsageError("OUTBOX_RETENTION is off: name the rows by a filter, as --until 30d")
    return RowFilter(until_ms=round((time() - settings.outbox_retention) * 1000))


def _settled_before(moment_ms: int) -> Callable[[FoundRow], bool]:
    """Whether a row's last step was before: what was discarded just now can still be replayed."""
    return lambda row: (row.sent_at_ms or row.changed_at_ms or row.received_at_ms) < moment_ms
