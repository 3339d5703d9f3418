"""``/plans``, ``/erase`` and ``/prune``: what a change would do, without doing it, and its confirmation."""

import secrets
from dataclasses import replace

from flask import Blueprint, current_app, redirect, request, session, url_for
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response

from console.access import Role, User, current_user, may, require_role, requires
from console.changes import Changes, Confirmation
from console.dependencies import EXTENSION, ConsoleDependencies, dependencies
from console.metrics import metrics
from console.pages.query import Query, row_filter
from console.pages.render import page
from console.planner import COUNTED_VERBS, Planner, PlanRequest, role_for
from console.plans import KeptPlan, Owner, Plans
from outbox.errors import InvalidRequestError
from outbox.operators.commands import change_arguments, filter_arguments, format_command
from outbox.operators.planned_change import Verb
from outbox.operators.planned_replay import check_plan_name
from outbox.operators.rows import RowFilter, parse_row_id
from outbox.states import RowState

blueprint = Blueprint("plans", __name__)
PLANNER, PLANS, CHANGES = "planner", "plans", "changes"
"""Names among the extensions of the application."""
SESSION = "plans"
MAX_IDS = 1_000
FORMS = {Verb.ERASE: "erase", Verb.PRUNE: "prune"}
"""Changes that begin on a page of their own."""
GONE = (
    "Plans are kept for 15 minutes, for the session that made them, and until the console restarts. "
    "Nothing was changed by this one: plan again."
)


@blueprint.record_once
def add_plans(state: BlueprintSetupState) -> None:
    """Add plans and changes to the application."""
    using: ConsoleDependencies = state.app.extensions[EXTENSION]
    state.app.extensions[PLANNER] = Planner(using.operations, using.settings)
    state.app.extensions[PLANS] = Plans(state.options["clock"])
    state.app.extensions[CHANGES] = Changes(using.pages, state.options["clock"])


@blueprint.get("/erase")
@requires(Role.CUSTODIAN)
def erase() -> Response:
    """Show the form that plans the erasure of a person's data."""
    return page("erase", errors={}, typed={})


@blueprint.get("/prune")
@requires(Role.CUSTODIAN)
def prune() -> Response:
    """Show the form that plans the removal of finished rows."""
    return page("prune", errors={}, typed={}, retention_seconds=dependencies().settings.outbox_retention)


@blueprint.post("/plans")
@requires(Role.VIEWER)
def make() -> Response:
    """Plan, and lead to the plan's page."""
    query = Query(request.form)
    verb = query.choice("verb", [each.value for each in Verb])
    if verb is None:
        query.errors.setdefault("verb", "choose what to do")
        return _refused(query, None)
    if Verb(verb) in FORMS:
        require_role(role_for(Verb(verb)))
    asked = _asked(query, Verb(verb))
    return _refused(query, Verb(verb)) if query.errors else plan(query, asked)


def plan(query: Query, asked: PlanRequest) -> Response:
    """Plan what was asked for, and lead to the plan's page."""
    planner: Planner = current_app.extensions[PLANNER]
    plans: Plans = current_app.extensions[PLANS]
    try:
        change = planner.plan(asked)
        if change.plan:
            return redirect(url_for("plans.show", plan_id=plans.add(asked, change, owner())), 303)
        query.errors["ids"] = change.empty_reason
    except InvalidRequestError as error:
        query.errors["verb"] = str(error)
    return _refused(query, asked.verb)


@blueprint.get("/plans/<plan_id>")
@requires(Role.VIEWER)
def show(plan_id: str) -> Response:
    """Show a plan to the session that made it."""
    plans: Plans = current_app.extensions[PLANS]
    kept = plans.find(plan_id, owner())
    return _plan_page(plan_id, kept, Query({})) if kept else _gone(plan_id)


@blueprint.post("/plans/<plan_id>")
@requires(Role.VIEWER)
def confirm(plan_id: str) -> Response:
    """Apply a plan, and lead to the change's page; a second confirmation leads there, too."""
    plans: Plans = current_app.extensions[PLANS]
    changes: Changes = current_app.extensions[CHANGES]
    kept = plans.find(plan_id, owner())
    if kept is None:
        return _gone(plan_id)
    user = require_role(role_for(kept.change.verb))
    query = Query(request.form)
    confirmation = _confirmation(query, kept, user)
    if confirmation is None:
        return _plan_page(plan_id, kept, query)
    key = dependencies().settings.pseudonym_key
    try:
        if changes.start(plan_id, lambda: plans.take(plan_id, kept.owner), confirmation, key) is None:
            return _gone(plan_id)
    except InvalidRequestError as error:
        query.errors["plan"] = str(error)
        return _plan_page(plan_id, kept, query)
    metrics().changes.labels(kept.change.verb).inc()
    return redirect(url_for("changes.show", change_id=plan_id), 303)


def owner() -> Owner:
    """Return who plans: a random text in the session's cookie, and the user."""
    user = current_user()
    if SESSION not in session:
        session[SESSION] = secrets.token_urlsafe(16)
    return Owner(session[SESSION], user.name if user else "")


def _confirmation(query: Query, kept: KeptPlan, user: User) -> Confirmation | None:
    """Read the form of a confirmation; None: something in it cannot be used."""
    rate, count, reason = query.number("rate"), query.number("count"), query.reason()
    total = len(kept.change.plan)
    if kept.change.verb in COUNTED_VERBS and count != total:
        query.errors.setdefault("count", f"type the number of rows, {total:,}, to confirm it")
    return None if query.errors else Confirmation(user.actor, reason, rate)


def _plan_page(plan_id: str, kept: KeptPlan, query: Query) -> Response:
    verb = kept.change.verb
    return page(
        "plan",
        400 if query.errors else 200,
        id=plan_id,
        kept=kept,
        change=kept.change,
        typed=request.form,
        errors=query.errors,
        needed=role_for(verb),
        may_confirm=may(role_for(verb)),
        counted=verb in COUNTED_VERBS,
        wanted=format_command(*filter_arguments(kept.asked.rows)).removeprefix("relay").strip(),
        command=(*kept.change.arguments, *change_arguments("WHY")),
    )


def _gone(plan_id: str) -> Response:
    changes: Changes = current_app.extensions[CHANGES]
    if changes.find(plan_id) is not None:
        return redirect(url_for("changes.show", change_id=plan_id), 303)
    typed = {name: request.form[name] for name in ("reason", "rate") if request.form.get(name)}
    return page("no_plan", 404, title="No such plan", message=GONE, errors={}, typed=typed)


def _refused(query: Query, verb: Verb | None) -> Response:
    """Say why nothing was planned: on the form that asked for it, if it is on a page of its own."""
    if verb in FORMS:
        typed = request.form
        retention = dependencies().settings.outbox_retention
        return page(FORMS[verb], 400, errors=query.errors, typed=typed, retention_seconds=retention)
    return page("no_plan", 400, title="No plan", message="Nothing was planned.", errors=query.errors, typed={})


def _asked(query: Query, verb: Verb) -> PlanRequest:
    """Read what is asked for; what cannot be used is in the query's errors."""
    name, topic = query.text("plan") or secrets.token_hex(6), query.text("topic")
    try:
        check_plan_name(name)
    except InvalidRequestError:
        query.errors["plan"] = "expected 1 to 64 letters, digits, hyphens and underscores"
    rows = _person(query) if verb == Verb.ERASE else _selected(query)
    if rows == RowFilter() and verb != Verb.PRUNE and not query.errors:
        query.errors["ids"] = "nothing is selected: name rows or a filter"
    return PlanRequest(verb, rows, name, topic, "parked_calls" in request.form)


def _person(query: Query) -> RowFilter:
    """Return the rows of a person."""
    email, interaction = query.address("address"), query.text("interaction")
    if not query.errors and (email is None) == (interaction is None):
        query.errors["interaction"] = "expected an interaction id or an address"
    return RowFilter(email=email, interaction_id=interaction)


def _selected(query: Query) -> RowFilter:
    """Return the rows named by id, or else those of the filter."""
    if "ids" in request.form:
        return _named(query)
    rows, like = row_filter(query), query.row_id("like")
    if like is None:
        return rows
    similar = dependencies().pages.like(like)
    if similar is None:
        query.errors["like"] = f"the outbox has no row {like}"
        return rows
    return replace(rows, interaction_id=similar.interaction_id)


def _named(query: Query) -> RowFilter:
    """Return the rows named by id. None is an error: a form whose boxes are all empty must not select every row."""
    typed = " ".join(request.form.getlist("ids")).replace(",", " ").split()
    numbers = list(map(parse_row_id, typed))
    if not typed:
        query.errors["ids"] = "nothing is selected: tick rows, or plan for all that match"
    elif len(typed) > MAX_IDS or None in numbers:
        query.errors["ids"] = f"expected at most {MAX_IDS:,} outbox ids: numbers such as 4711"
    ids = tuple(sorted({number for number in numbers if number is not None}))
    return RowFilter(ids=ids, state=query.choice("state", [each.value for each in RowState]))
