"""``/shards/pause`` and ``/shards/resume``: whether relays send."""

import re

from flask import Blueprint, flash, redirect, request, url_for
from werkzeug.wrappers import Response

from console.access import Role, require_role, requires
from console.dependencies import dependencies
from console.pages.query import Query
from console.pages.render import page
from outbox.operators.audit import AuditContext
from outbox.operators.pause import PauseChange, pause_shards, resume_shards
from outbox.operators.rows import RowFilter

blueprint = Blueprint("pauses", __name__)
ALL = "all"
SHARD = re.compile("[0-9]{1,2}")


@blueprint.post("/shards/pause")
@requires(Role.VIEWER)
def pause() -> Response:
    """Pause sending from a shard, or from every shard, for a time."""
    user = require_role(Role.OPERATOR)
    query = Query(request.form)
    shard, seconds, reason = _shard(query), query.duration("for"), query.reason()
    if query.errors:
        return _refused(query)
    change = pause_shards(dependencies().engine, shard, seconds, AuditContext(user.actor, reason, RowFilter()))
    return _done(query, change, "pause", *_option(shard), "--for", request.form["for"].strip())


@blueprint.post("/shards/resume")
@requires(Role.VIEWER)
def resume() -> Response:
    """End the pause of a shard, or of every shard."""
    user = require_role(Role.OPERATOR)
    query = Query(request.form)
    shard, reason = _shard(query), query.reason()
    if query.errors:
        return _refused(query)
    change = resume_shards(dependencies().engine, shard, AuditContext(user.actor, reason, RowFilter()))
    return _done(query, change, "resume", *_option(shard))


def _shard(query: Query) -> int | None:
    """Return the number of a shard; None: every shard, or it cannot be used."""
    typed = (query.text("shard") or "").strip()
    if typed == ALL:
        return None
    if not SHARD.fullmatch(typed):
        query.errors["shard"] = f"expected {ALL}, or the number of a shard"
        return None
    return int(typed)


def _option(shard: int | None) -> tuple[str, ...]:
    return () if shard is None else ("--shard", str(shard))


def _done(query: Query, change: PauseChange, *command: str) -> Response:
    """Return to the page, which says what was done; or to the form, if nothing was."""
    if change.entry_id is None:
        query.errors["shard"] = change.text
        return _refused(query)
    done = {"text": change.text, "entry_id": change.entry_id, "command": (*command, "--reason", "WHY")}
    flash(done)  # type: ignore[arg-type] # the session keeps a mapping as well as a text
    return redirect(url_for("shards.show"), 303)


def _refused(query: Query) -> Response:
    numbers = list(range(dependencies().store.identity().shards))
    return page("shards", 400, numbers=numbers, may_pause=True, typed=request.form, errors=query.errors)
