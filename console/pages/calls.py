"""``/calls``: inference calls that are parked."""

from flask import Blueprint, Response, request

from console.access import Role, requires
from console.dependencies import dependencies
from console.pages.query import Query, row_filter
from console.pages.render import list_command, live_page, page
from outbox.models import INT64_MAX

blueprint = Blueprint("calls", __name__)
FILTERS = ("channel", "error", "since", "until")


@blueprint.get("/calls")
@requires(Role.VIEWER)
def show() -> Response:
    """Show a page of parked calls, the newest row first, and how many calls are due."""
    query = Query(request.args)
    wanted, after = row_filter(query, state=False), query.row_id("after") or INT64_MAX
    values = {"typed": request.args, "errors": query.errors}
    if query.errors:
        return page("calls", 400, **values)
    using = dependencies()
    found, counts = using.pages.calls(wanted, after), using.store.count_calls()
    following = {name: request.args[name] for name in FILTERS if request.args.get(name)}
    command = list_command(wanted, "inference")
    return live_page("calls", found=found, counts=counts, following=following, command=command, **values)
