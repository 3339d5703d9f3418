"""``relay erase``: remove a person's data from the outbox."""

import sys
from collections import Counter

import click

from outbox.operators.change import Operations
from outbox.operators.commands import filter_arguments
from outbox.operators.format import plural
from outbox.operators.plan import Plan
from outbox.operators.rows import MAX_COUNTED_ROWS, RowFilter
from outbox.states import RowState
from relay.cli.change import PlannedChange, find_rows, run_change
from relay.cli.options import ChangeOptions, change_options
from relay.cli.output import ExitCode
from relay.cli.param_types import EmailParam, NonEmptyParam
from relay.cli.session import audit_context, open_operations

SEARCHED = (
    "searched for the address: customer address and all text of the body, ignoring case and JSON escapes. "
    "Not searched: interaction ids, agent ids and channels, which are kept (--interaction erases by interaction id), "
    "and other encodings in the body, such as base64"
)


@click.command()
@change_options
@click.option(
    "--email", type=EmailParam(), help="Select rows with this address, also anywhere in the body; - reads the address."
)
@click.option("--interaction", type=NonEmptyParam(), help="Select rows of this interaction id.")
def erase(*, options: ChangeOptions, email: str | None, interaction: str | None) -> None:
    """Remove a person's data from the outbox.

    Removes the customer's address and the received body from rows in any state. Ids, interaction id,
    channel, agent id, times and state are kept. A pending row is still sent, with the address null.
    Records in Kafka are not changed.

    \b
    Examples:
      relay erase --email - --reason "request 2026-17"     # asks for the address
      relay erase --interaction abc-1 --dry-run
    """
    if (email is None) == (interaction is None):
        raise click.UsageError("select the person's rows by either --email or --interaction")
    rows = RowFilter(email=email, interaction_id=interaction)
    with open_operations() as (operations, settings):
        context = audit_context(options, settings, rows)
        plan = find_rows(operations.erasable(rows))
        change = PlannedChange(
            "erase",
            plan,
            lambda chunk: operations.erase(chunk, context),
            _consequences(operations, plan, email),
            ("erase", *filter_arguments(rows)),
            "" if plan else _explain_empty(operations, rows),
        )
        code = run_change(change, options)
        ended = code in (ExitCode.DONE, ExitCode.PARTLY_DONE) and not options.dry_run
        if ended and any(True for _ in operations.erasable(rows)):
            click.echo("more rows of this person arrived or are left: run the command again", err=True)
            code = ExitCode.PARTLY_DONE
        sys.exit(code)


def _explain_empty(operations: Operations, rows: RowFilter) -> str:
    if rows.email is not None:
        return f"no row matches; {SEARCHED}"
    count = sum(1 for _ in operations.find(rows))
    return f"the data of {plural(count, 'matching row')} is erased already" if count else "no row matches"


def _consequences(operations: Operations, plan: Plan, email: str | None) -> tuple[str, ...]:
    with_address = sum(
        (operations.count_with_address(chunk) for chunk in plan.chunks(MAX_COUNTED_ROWS)), Counter[str]()
    )
    removed = "the customer's address and the received body are" if with_address else "the received body is"
    sentences = [
        *(() if email is None else (SEARCHED,)),
        f"{removed} removed; ids, channel, agent, times and state are kept",
    ]
    if sent := with_address[RowState.SENT]:
        sentences.append(
            f"{sent:,} of them were sent with the address: the records stay in Kafka for the topic's retention; "
            "delete them there and wherever consumers have copied them"
        )
    if pending := with_address[RowState.PENDING]:
        sentences.append(
            f"{pending:,} of them are pending and will be sent without the address, unless a relay is sending them "
            "now: check with relay show ID --verify"
        )
    return tuple(sentences)
