"""``/plans``: what a verb would do to the rows of a filter, without doing it."""

import secrets

from flask import Blueprint, current_app, redirect, request, session, url_for
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response

from console.access import Role, current_user, requires
from console.dependencies import dependencies
from console.pages.query import Query, parse_row_id, row_filter
from console.pages.render import page
from console.plans import Owner, Plans, collect
from outbox.errors import InvalidRequestError
from outbox.operators.planned_change import Verb, plan_discard, plan_retry, plan_retry_calls
from outbox.operators.rows import RowFilter

blueprint = Blueprint("plans", __name__)
PLANS = "plans"
"""Name of the plans among the extensions of the application."""
SESSION = "plans"
PLANNERS = {Verb.RETRY: plan_retry, Verb.DISCARD: plan_discard, Verb.RETRY_CALLS: plan_retry_calls}
FIELDS = ("verb", "ids", "state", "channel", "error", "since", "until")
MAX_IDS = 1_000
GONE = "Plans are kept for 15 minutes, and until the console restarts. Nothing was changed by this one: plan again."


@blueprint.record_once
def add_plans(state: BlueprintSetupState) -> None:
    """Add the plans to the application."""
    state.app.extensions[PLANS] = Plans(state.options["clock"])


@blueprint.post("/plans")
@requires(Role.VIEWER)
def make() -> Response:
    """Plan, and lead to the plan's page."""
    typed = {name: tuple(request.form.getlist(name)) for name in FIELDS if request.form.get(name)}
    query = Query(request.form)
    verb, rows = query.choice("verb", list(PLANNERS)), _selected(query)
    if verb is None and not query.errors:
        query.errors["verb"] = "choose what to do"
    if rows == RowFilter() and not query.errors:
        query.errors["ids"] = "nothing is selected: name rows or a filter"
    if verb is None or query.errors:
        return _refused(query)
    try:
        change = PLANNERS[Verb(verb)](dependencies().operations, rows, collect)
        if change.plan:
            plan_id = current_app.extensions[PLANS].add(change, _owner(), typed)
            return redirect(url_for("plans.show", plan_id=plan_id), 303)
        query.errors["ids"] = change.empty_reason
    except InvalidRequestError as error:
        query.errors["verb"] = str(error)
    return _refused(query)


@blueprint.get("/plans/<plan_id>")
@requires(Role.VIEWER)
def show(plan_id: str) -> Response:
    """Show a plan to the session that made it."""
    plans: Plans = current_app.extensions[PLANS]
    kept = plans.find(plan_id, _owner())
    if kept is None:
        return page("no_plan", 404, message=GONE, errors={})
    return page("plan", change=kept.change, at_ms=round(kept.at * 1000))


def _refused(query: Query) -> Response:
    return page("no_plan", 400, message="Nothing was planned.", errors=query.errors)


def _selected(query: Query) -> RowFilter:
    """Return the rows named by id, or else those of the filter."""
    typed = request.form.getlist("ids")
    if not typed:
        return row_filter(query)
    ids = tuple(row_id for row_id in map(parse_row_id, typed) if row_id is not None)
    if len(ids) < len(typed) or len(ids) > MAX_IDS:
        query.errors["ids"] = f"expected at most {MAX_IDS:,} outbox ids: numbers such as 4711"
    return RowFilter(ids=tuple(sorted(set(ids))))


def _owner() -> Owner:
    """Return who plans: a random text in the session's cookie, and the user."""
    user = current_user()
    if SESSION not in session:
        session[SESSION] = secrets.token_urlsafe(16)
    return Owner(session[SESSION], user.name if user else "")
