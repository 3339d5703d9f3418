"""``/rows`` and ``/rows/4711``: rows by filter, and the life of one row."""

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from console.access import Role, requires
from console.dependencies import dependencies
from console.pages.query import Query, row_filter
from console.pages.record_search import look_up
from console.pages.render import list_command, live_page, page
from console.pages.timeline import timeline
from outbox.models import INT64_MAX
from outbox.operators.pages import RowPage
from outbox.operators.row_history import RowHistory
from outbox.operators.rows import RowFilter, parse_row_id
from outbox.states import RowState

blueprint = Blueprint("rows", __name__)
FILTERS = ("state", "channel", "error", "since", "until", "like", "by")
ACTED_ON = (RowState.PARKED, RowState.SENT, RowState.DISCARDED)
"""States whose rows can be changed."""
STATES = [state.value for state in RowState]
INTERACTION, ADDRESS = "interaction", "address"
NO_INTERACTION = "no row has this interaction id"
NO_ADDRESS = "none of the newest rows has this address"


@blueprint.get("/rows")
@requires(Role.VIEWER)
def show_all() -> Response:
    """Show a page of the rows that a filter selects, the newest first, without their content."""
    query = Query(request.args)
    wanted, like, after = row_filter(query), query.row_id("like"), query.row_id("after") or INT64_MAX
    by = query.choice("by", [ADDRESS])
    if by is not None and like is None and not query.errors:
        query.errors["like"] = "expected the outbox id of a row"
    values: dict[str, Any] = {"states": STATES, "typed": request.args, "errors": query.errors, "like": like, "by": by}
    if query.errors:
        return page("rows", 400, **values)
    found, command = _find(wanted, like, by, after)
    values |= {"acts": wanted.state in ACTED_ON, "topics": dependencies().settings.kafka_replay_topics}
    following = {name: request.args[name] for name in FILTERS if request.args.get(name)}
    return live_page("rows", found=found, wanted=wanted, following=following, command=command, **values)


def _find(wanted: RowFilter, like: int | None, by: str | None, after: int) -> tuple[RowPage, str | None]:
    """Return a page of rows, and the command that lists the same ones, unless it would name a person."""
    pages = dependencies().pages
    if like is None:
        return pages.rows(wanted, after), list_command(wanted)
    if by == ADDRESS:
        return pages.of_same_customer(like, after), None
    similar = pages.like(like)
    if similar is None:
        return RowPage([], None), None
    return pages.rows(replace(wanted, interaction_id=similar.interaction_id), after), None


@blueprint.post("/rows")
@requires(Role.VIEWER)
def search() -> AnyResponse:
    """Find the newest row of an interaction or of a customer: its id stands for both in the address."""
    query = Query(request.form)
    interaction, address = query.text(INTERACTION), query.address(ADDRESS)
    if not query.errors and (interaction is None) == (address is None):
        query.errors[INTERACTION] = "expected an interaction id or an address"
    if not query.errors:
        pages = dependencies().pages
        if address is None:
            rows = pages.rows(RowFilter(interaction_id=interaction)).rows
        else:
            rows = pages.of_customer(address).rows
        by = None if address is None else ADDRESS
        if rows:
            return redirect(url_for("rows.show_all", like=rows[0].id, by=by), 303)
        query.errors[by or INTERACTION] = NO_INTERACTION if address is None else NO_ADDRESS
    return page("rows", 400, states=STATES, typed={}, errors=query.errors, like=None, by=None)


@blueprint.get("/rows/<typed_id>")
@requires(Role.VIEWER)
def show(typed_id: str) -> Response:
    """Show everything that the outbox knows about a row; its content is masked."""
    history = _history(typed_id)
    if isinstance(history, Response):
        return history
    topics = dependencies().settings.kafka_replay_topics
    return live_page("row", history=history, row=history.row, events=timeline(history), topics=topics)


@blueprint.get("/rows/<typed_id>/kafka")
@requires(Role.VIEWER)
def show_record(typed_id: str) -> Response:
    """Find the row's record in Kafka: as a part of the row's page, which is shown before, or as a page of its own."""
    history = _history(typed_id)
    if isinstance(history, Response):
        return history
    return live_page("record", row=history.row, kafka=look_up(history.row, compare="verify" in request.args))


def _history(typed_id: str) -> RowHistory | Response:
    """Return a row's history, or the page that says why there is none."""
    row_id = parse_row_id(typed_id)
    if row_id is None:
        return page("no_row", 400, message="Expected an outbox id: a number such as 4711.")
    history = dependencies().histories.get(row_id)
    return history or page("no_row", 404, message=f"The outbox has no row {row_id}.")
