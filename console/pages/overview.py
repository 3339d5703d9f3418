"""``/``: does it move, and if not, why."""

from flask import Blueprint, Response, current_app
from flask.sansio.blueprints import BlueprintSetupState

from console.access import Role, requires
from console.dependencies import EXTENSION, ConsoleDependencies, dependencies
from console.pages.adapters import shard_fields
from console.pages.curve import BacklogSampler, draw
from console.pages.health import is_live, judge
from console.pages.render import live_page, now_ms
from outbox.models import ShardStatus

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
    oldest = [shard.oldest_age_ms for shard in shards if shard.oldest_age_ms is not None]
    return live_page(
        "overview",
        health=judge(shards, calls),
        shards=shards,
        calls=calls,
        pending=sum(shard.pending for shard in shards),
        waiting=sum(shard.waiting for shard in shards),
        oldest_age_ms=max(oldest, default=None),
        rate=rate_of(shards),
        drained_in_ms=drained_in_ms(shards),
        curve=draw(sampler.samples(), now_ms()),
        entries=using.pages.audit(limit=SHOWN_ENTRIES).entries,
    )


def rate_of(shards: list[ShardStatus]) -> float:
    """Return how many rows all relays send in a second, as they last measured."""
    return sum(shard.rows_per_second for shard in shards if is_live(shard))


def drained_in_ms(shards: list[ShardStatus]) -> int | None:
    """Return how long the slowest shard needs to send what it has; None: one of them does not send."""
    seconds = [shard_fields(shard)["drained_in_seconds"] for shard in shards]
    return None if None in seconds else 1000 * max(seconds, default=0)
