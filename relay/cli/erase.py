"""``relay erase``: remove a person's data from the outbox."""

import sys
from collections import Counter

import click

from outbox.operators.change import Operations
from outbox.operators.plan import Plan
from outbox.operators.rows import MAX_COUNTED_ROWS, RowFilter
from outbox.states import RowState
from relay.cli.change import Asked, Change, carry_out, changing, plan_of
from relay.cli.options import DONE, PARTLY_DONE, Address, Value, as_options, operations

SEARCHED = (
    "the address was looked for as the customer's and in every text of the bodies, upper and lower case and JSON "
    "escapes alike; not in interaction ids, agent ids, channels and Idempotency-Keys, which stay (--interaction "
    "erases by an id), nor where a body encodes it otherwise, as in base64"
)


@click.command()
@changing
@click.option(
    "--email", type=Address(), help="Rows with this address, or whose body contains it in any spelling; - reads it."
)
@click.option("--interaction", type=Value(), help="Rows of the interaction with this id.")
def erase(*, email: str | None, interaction: str | None, **given: object) -> None:
    """Remove a person's data from the outbox.

    Removed from rows in any state: the customer's address and the body that was received. What stays: ids,
    interaction id, channel, agent id, times and state. A pending row is still sent, with the address null.
    What is in Kafka stays there.

    \b
    Examples:
      relay erase --email - --reason "request 2026-17"     # asks for the address
      relay erase --interaction abc-1 --dry-run
    """
    if (email is None) == (interaction is None):
        raise click.UsageError("name the person's rows by --email or by --interaction, one of them")
    asked = Asked.taken_from(given)
    wanted = RowFilter(email=email, interaction_id=interaction)
    with operations() as (verbs, settings):
        context = asked.context(wanted, settings)
        plan = plan_of(verbs.erasable(wanted))
        again = ("erase", *as_options(wanted))
        nothing = "" if plan else _nothing_left(verbs, wanted)
        told = _consequences(verbs, plan, email)
        change = Change("erase", plan, lambda chunk: verbs.erase(chunk, context), told, again, nothing)
        code = carry_out(change, asked)
        if code in (DONE, PARTLY_DONE) and not asked.dry_run and any(True for _ in verbs.erasable(wanted)):
            click.echo("rows of this person came in meanwhile, or are left: give the command again", err=True)
            code = PARTLY_DONE
        sys.exit(code)


def _nothing_left(verbs: Operations, wanted: RowFilter) -> str:
    if wanted.email is not None:
        return f"no row matches; {SEARCHED}"
    rows = sum(1 for _ in verbs.find(wanted))
    return f"{rows} row(s) match, and hold no personal data any more" if rows else "no row matches"


def _consequences(verbs: Operations, plan: Plan, email: str | None) -> tuple[str, ...]:
    held = sum((verbs.count_with_address(chunk) for chunk in plan.chunks(MAX_COUNTED_ROWS)), Counter[str]())
    what = "the customer's address and the received body are" if held else "the received body is"
    told = [
        *(() if email is None else (SEARCHED,)),
        f"{what} removed; ids, channel, agent, times and state stay",
    ]
    if sent := held[RowState.SENT]:
        told.append(
            f"{sent} of them are sent with the address: their records stay in Kafka until the topic's retention "
            "removes them; delete them there, and where consumers have copied them"
        )
    if pending := held[RowState.PENDING]:
        told.append(
            f"{pending} of them are pending, and are sent without the address, unless a relay has them in hand now: "
            "relay show ID --verify tells"
        )
    return tuple(told)
