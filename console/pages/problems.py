"""``/problems``: what is parked, by error."""

from flask import Blueprint, Response, request

from console.access import Role, requires
from console.dependencies import dependencies
from console.pages.query import MAX_TEXT_CHARACTERS, Query
from console.pages.render import live_page, page
from outbox.operators.pages import Problem

blueprint = Blueprint("problems", __name__)


@blueprint.get("/problems")
@requires(Role.VIEWER)
def show() -> Response:
    """Show parked rows and parked calls, each by error."""
    query = Query(request.args)
    error = query.text("error")
    if query.errors:
        return page("problems", 400, typed=request.args, errors=query.errors)
    pages = dependencies().pages
    rows, calls = pages.problems(error), pages.call_problems(error)
    return live_page("problems", typed=request.args, errors={}, rows=rows, calls=calls)


@blueprint.app_template_filter("cause")
def cause_of(error: str) -> str:
    """Return an error without the remedy in its text."""
    return _split(error)[0]


@blueprint.app_template_filter("remedy")
def remedy_of(error: str) -> str:
    """Return the remedy in an error's text; empty: it has none."""
    return _split(error)[1]


@blueprint.app_template_filter("searchable")
def searchable(problem: Problem) -> str:
    """Return the longest part of an error without numbers, by which its rows are found; empty: it has none."""
    return max(problem.group.error.split("#"), key=len).strip()[:MAX_TEXT_CHARACTERS]


def _split(error: str) -> tuple[str, str]:
    """Split an error as the relay writes it: "what Kafka said (NAME): what to do"."""
    for mark in ("): ", " is not in KAFKA_REPLAY_TOPICS: "):
        cause, found, remedy = error.partition(mark)
        if found:
            return cause + found.removesuffix(": "), remedy
    return error, ""
