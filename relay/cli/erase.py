"""``relay erase``: remove a person's data from the outbox."""

import sys

import click

from outbox.rows import Plan, RowFilter
from outbox.states import RowState
from relay.cli.changing import Asked, Change, carry_out, changing, plan_of
from relay.cli.shared import DONE, PARTLY_DONE, Value, as_options, operations

SEARCHED = (
    "the address was looked for as the customer's and in every text of the bodies, upper and lower case and JSON "
    "escapes alike; not in interaction ids, agent ids, channels and Idempotency-Keys, which stay (--interaction "
    "erases by an id), nor where a body encodes it otherwise, as in base64"
)


@click.command()
@changing
@click.option("--email", type=Value(), help="Rows with this customer address, or whose body holds it in any spelling.")
@click.option("--interaction", type=Value(), help="Every row of this interaction.")
def erase(*, email: str | None, interaction: str | None, **given: object) -> None:
    """Remove a person's data from rows in any state: the customer's address and the body that was received.

    What stays: ids, interaction id, channel, agent id, times and state. A pending row is still sent,
    with the address null. What is in Kafka stays there.

    \b
    Examples:
      relay erase --email someone@example.com --reason "request 2026-17"
      relay erase --interaction abc-1 --dry-run --reason "looking"
    """
    if (email is None) == (interaction is None):
        raise click.UsageError("name the person's rows by --email or by --interaction, one of them")
    asked = Asked.taken_from(given)
    wanted = RowFilter(email=email, interaction_id=interaction)
    with operations() as (verbs, settings):
        order = asked.order(wanted, settings)
        plan = plan_of(verbs.erasable(wanted))
        again = ("erase", *as_options(wanted))
        change = Change("erase", plan, lambda chunk: verbs.erase(chunk, order), _consequences(plan, email), again)
        if email is not None and not plan:
            click.echo(SEARCHED, err=True)
        code = carry_out(change, asked)
        if code in (DONE, PARTLY_DONE) and not asked.dry_run and any(True for _ in verbs.erasable(wanted)):
            click.echo("rows of this person came in meanwhile, or are left: give the command again", err=True)
            code = PARTLY_DONE
        sys.exit(code)


def _consequences(plan: Plan, email: str | None) -> tuple[str, ...]:
    sent, pending = plan.states[RowState.SENT], plan.states[RowState.PENDING]
    told = [
        *(() if email is None else (SEARCHED,)),
        "the customer's address and the received body are removed; ids, channel, agent, times and state stay",
    ]
    if sent:
        told.append(
            f"{sent} of them are sent: their records stay in Kafka, with the address, until the topic's retention "
            "removes them; delete them there, and where consumers have copied them"
        )
    if pending:
        told.append(
            f"{pending} of them are pending, and are sent without the address, unless a relay has them in hand now: "
            "relay show ID --verify tells"
        )
    return tuple(told)
