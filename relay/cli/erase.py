"""``relay erase``: remove a person's data from the outbox."""

import sys

import click

from outbox.operators.planned_erasure import plan_erase, rows_of_person
from relay.cli.change import find_rows, run_change
from relay.cli.errors import usage_errors
from relay.cli.options import ChangeOptions, change_options
from relay.cli.output import ExitCode
from relay.cli.param_types import EmailParam, NonEmptyParam
from relay.cli.session import audit_context, open_operations


@click.command()
@change_options
@click.option(
    "--email", type=EmailParam(), help="Select rows with this address, also anywhere in the body; - reads the address."
)
@click.option("--interaction", type=NonEmptyParam(), help="Select rows of this interaction id.")
@usage_errors()
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
    rows = rows_of_person(email, interaction)
    with open_operations() as (operations, settings):
        context = audit_context(options, settings)
        code = run_change(plan_erase(operations, rows, find_rows), options, context)
        ended = code in (ExitCode.DONE, ExitCode.PARTLY_DONE) and not options.dry_run
        if ended and any(True for _ in operations.erasable(rows)):
            click.echo("more rows of this person arrived or are left: run the command again", err=True)
            code = ExitCode.PARTLY_DONE
        sys.exit(code)
