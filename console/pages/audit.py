"""``/audit``: who changed what, when and why, and whether the log is intact."""

import json
import re

from flask import Blueprint, Response, request

from console.access import Role, requires
from console.dependencies import dependencies
from console.pages.query import Query
from console.pages.render import live_page, page
from outbox.models import INT64_MAX

blueprint = Blueprint("audit", __name__)
SHOWN_IDS = 10
HASH = re.compile(r"[0-9a-f]{64}")


@blueprint.get("/audit")
@requires(Role.VIEWER)
def show() -> Response:
    """Show a page of entries, the newest first."""
    query = Query(request.args)
    after = query.row_id("after") or INT64_MAX
    if query.errors:
        return page("audit", 400, typed={}, errors=query.errors)
    return live_page("audit", typed={}, errors={}, found=dependencies().pages.audit(after))


@blueprint.post("/audit")
@requires(Role.VIEWER)
def verify() -> Response:
    """Verify the chain of hashes, against a hash that was noted earlier if one is given."""
    query = Query(request.form)
    head = (query.text("head") or "").strip().lower() or None
    if head is not None and not HASH.fullmatch(head):
        query.errors["head"] = (
            "expected a hash: 64 hexadecimal digits, as shown here or printed by relay audit --verify"
        )
    if query.errors:
        return page("audit", 400, typed=request.form, errors=query.errors)
    report = dependencies().operations.verify(head)
    return page("verified", head=head, report=report)


@blueprint.app_template_filter("row_ids")
def row_ids(listed: str) -> tuple[list[int], int]:
    """Return the first rows of an entry, and how many there are."""
    ids: list[int] = json.loads(listed)
    return ids[:SHOWN_IDS], len(ids)
