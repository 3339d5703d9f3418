"""``/changes/ID``: a confirmed plan, how far it is, and the proof of what it did."""

from collections.abc import Iterator
from typing import NamedTuple

from flask import Blueprint, Response, abort, current_app, redirect, url_for
from werkzeug.wrappers import Response as AnyResponse

from console.access import Role, may, require_role, requires
from console.changes import Change, Changes
from console.dependencies import dependencies
from console.pages.plans import CHANGES, plan
from console.pages.query import Query
from console.pages.record_search import look_up
from console.pages.render import live_page, page
from console.planner import PlanRequest, role_for
from outbox.operators.planned_change import Verb
from outbox.operators.row_history import StoredRow
from relay.kafka.row_verification import KafkaRecord, topic_agrees

blueprint = Blueprint("changes", __name__)
VERIFIED_VERBS = frozenset({Verb.RETRY, Verb.DISCARD, Verb.REPLAY})
"""What should show in the topic."""
GONE = (
    "This console knows no such change: it may have been restarted since. The audit log has what was done, "
    "and rows that a change has not reached are as they were."
)


class Comparison(NamedTuple):
    """A row of a change and its record."""

    row: StoredRow
    kafka: KafkaRecord
    agrees: bool | None
    """Whether the topic holds what the row says; None: unknown."""


@blueprint.get("/changes/<change_id>")
@requires(Role.VIEWER)
def show(change_id: str) -> Response:
    """Show how far a change is, or how it ended."""
    change = _find(change_id)
    changes: Changes = current_app.extensions[CHANGES]
    seconds = change.seconds(changes.clock())
    rate = change.processed / seconds if seconds > 0 else 0.0
    return live_page(
        "change",
        id=change_id,
        change=change,
        seconds=seconds,
        rate=rate,
        seconds_left=(change.total - change.processed) / rate if rate else None,
        may_act=may(role_for(change.asked.verb)),
        verified=change.asked.verb in VERIFIED_VERBS,
    )


@blueprint.post("/changes/<change_id>/stop")
@requires(Role.VIEWER)
def stop(change_id: str) -> AnyResponse:
    """End a change after the chunk in hand."""
    change = _find(change_id)
    require_role(role_for(change.asked.verb))
    change.stop()
    return redirect(url_for("changes.show", change_id=change_id), 303)


@blueprint.post("/changes/<change_id>/rest")
@requires(Role.VIEWER)
def plan_rest(change_id: str) -> AnyResponse:
    """Plan what a change has not done, without rows that arrived since; a replay keeps its name."""
    change = _find(change_id)
    require_role(role_for(change.asked.verb))
    return plan(Query({}), change.asked.until(change.last_received_ms + 1))


@blueprint.get("/changes/<change_id>/proof")
@requires(Role.VIEWER)
def prove(change_id: str) -> Response:
    """Compare the first rows of a change with the topic."""
    change = _find(change_id)
    return page("proof", id=change_id, change=change, results=list(_compare(change)))


def _compare(change: Change) -> Iterator[Comparison]:
    """Compare row by row until Kafka cannot be asked: each try would take its time limit."""
    for row_id in change.sample:
        row = _sent_row(row_id, change.asked)
        if row is None:
            continue
        kafka = look_up(row, compare=True)
        yield Comparison(row, kafka, topic_agrees(row, kafka))
        if not kafka.looked_up:
            return


def _sent_row(row_id: int, asked: PlanRequest) -> StoredRow | None:
    """Return a row of a plan as it is now; of a replay, its newest replay. None: the outbox does not have it."""
    histories = dependencies().histories
    history = histories.get(row_id)
    if history is None:
        return None
    if asked.verb != Verb.REPLAY:
        return history.row
    replays = [replay.id for replay in history.replays if replay.replay_of == row_id]
    replay = histories.get(max(replays)) if replays else None
    return replay.row if replay else None


def _find(change_id: str) -> Change:
    """Return a change, or answer the request with the page that says why there is none."""
    changes: Changes = current_app.extensions[CHANGES]
    change = changes.find(change_id)
    if change is None:
        abort(page("no_plan", 404, title="No such change", message=GONE, errors={}, typed={}))
    return change
