"""``/rows/4711/reveal``: the content of a row, on record before it is shown."""

import json
from contextlib import suppress

from flask import Blueprint, Response, request

from console.access import Role, may, require_role, requires
from console.dependencies import dependencies
from console.pages.query import Query
from console.pages.render import page
from outbox.operators.audit import AuditContext
from outbox.operators.format import escape
from outbox.operators.rows import RowFilter, parse_row_id

blueprint = Blueprint("reveal", __name__)
SHOWN_SECONDS = 60


@blueprint.post("/rows/<typed_id>/reveal")
@requires(Role.VIEWER)
def show(typed_id: str) -> Response:
    """Show the personal values and the payload of a row, after writing the audit entry."""
    user = require_role(Role.CUSTODIAN)
    row_id = parse_row_id(typed_id)
    if row_id is None:
        return page("no_row", 400, message="Expected an outbox id: a number such as 4711.")
    query = Query(request.form)
    reason = query.reason()
    if query.errors:
        return page("reveal", 400, id=row_id, content=None, typed=request.form, errors=query.errors)
    using = dependencies()
    context = AuditContext(user.actor, reason, RowFilter(ids=(row_id,)), using.settings.pseudonym_key)
    content = using.histories.reveal(row_id, context)
    if content is None:
        return page("no_row", 404, message=f"The outbox has no row {row_id}.")
    return page("reveal", id=row_id, content=content, seconds=SHOWN_SECONDS)


@blueprint.app_template_global("may_reveal")
def may_reveal() -> bool:
    """Return whether the reader may see the content of rows."""
    return may(Role.CUSTODIAN)


@blueprint.app_template_filter("readable")
def readable(payload: bytes) -> str:
    """Return a payload as text: JSON indented, anything else as it was received; only line ends control the output."""
    received = payload.decode(errors="replace")
    with suppress(ValueError, RecursionError):
        received = json.dumps(json.loads(received), indent=2, ensure_ascii=False)
    return "\n".join(map(escape, received.split("\n")))
