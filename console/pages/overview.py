"""``/``: does it move, and if not, why."""

from flask import Blueprint, Response, current_app
from flask.sansio.blueprints import BlueprintSetupState

from console.access import Role, requires
from console.changes import Changes
from console.dependencies import EXTENSION, ConsoleDependencies, dependencies
from console.pages.curve import BacklogSampler, draw
from console.pages.health import judge
from console.pages.plans import CHANGES
from console.pages.render import live_page, now_ms
from outbox.operators.shard_status import shard_fields, total_fields

blueprint = Blueprint("overview", __name__)
SAMPLER = "backlog_sampler"
"""Name of the sampler among the extensions of the application."""
SHOWN_ENTRIES = 5


@blueprint.record_once
def add_sampler(state: BlueprintSetupState) -> None:
    """Add the sampler to the application."""
    using: ConsoleDependencies = state.app.extensions[EXTENSION]
    state.app.extensions[SAMPLER] = BacklogSampler(using.pages.count_pending, now_ms)


@blueprint.before_app_request
def start_sampler() -> None:
    """Start sampling in the process that answers requests."""
    sampler: BacklogSampler = current_app.extensions[SAMPLER]
    sampler.start()


@blueprint.get("/")
@requires(Role.VIEWER)
def show() -> Response:
    """Show the state of the outbox in one word, and what it is made of."""
    using = dependencies()
    shards, calls = using.store.status(), using.store.count_calls()
    sampler: BacklogSampler = current_app.extensions[SAMPLER]
    changes: Changes = current_app.extensions[CHANGES]
    return live_page(
        "overview",
        health=judge(shards, calls),
        shards=shards,
        total=total_fields(list(map(shard_fields, shards))),
        calls=calls,
        curve=draw(sampler.samples(), now_ms()),
        changes=changes.running(),
        verdict=using.store.last_verdict(),
        entries=using.pages.audit(limit=SHOWN_ENTRIES).entries,
    )
