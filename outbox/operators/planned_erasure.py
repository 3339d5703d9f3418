"""The erasure of a person's data, ready to be shown and applied."""

from collections import Counter

from outbox.errors import InvalidRequestError
from outbox.operators.change import Operations
from outbox.operators.commands import filter_arguments
from outbox.operators.format import plural
from outbox.operators.plan import Plan
from outbox.operators.planned_change import Collect, PlannedChange, Verb
from outbox.operators.rows import MAX_COUNTED_ROWS, RowFilter
from outbox.states import RowState

SEARCHED = (
    "searched for the address: customer address and all text of the body, ignoring case and JSON escapes. "
    "Not searched: interaction ids, agent ids and channels, which are kept (--interaction erases by interaction id), "
    "and other encodings in the body, such as base64"
)


def rows_of_person(email: str | None, interaction_id: str | None) -> RowFilter:
    """Return the filter of a person's rows.

    Raises:
        InvalidRequestError: both are given, or neither.
    """
    if (email is None) == (interaction_id is None):
        raise InvalidRequestError("select the person's rows by either --email or --interaction")
    return RowFilter(email=email, interaction_id=interaction_id)


def plan_erase(operations: Operations, person: RowFilter, collect: Collect = Plan) -> PlannedChange:
    """Plan to remove a person's data from rows in any state.

    Args:
        operations: on the outbox.
        person: of ``rows_of_person``.
        collect: makes the plan.

    Raises:
        InvalidRequestError: the filter is not of a person.
    """
    rows = rows_of_person(person.email, person.interaction_id)
    plan = collect(operations.erasable(rows))
    return PlannedChange(
        Verb.ERASE,
        rows,
        plan,
        operations.erase,
        _consequences(operations, plan, rows.email),
        ("erase", *filter_arguments(rows)),
        "" if plan else _explain_empty(operations, rows),
    )


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
