"""``/shards``: shards, the relays that own them, and pauses."""

from flask import Blueprint, Response

from console.access import Role, may, requires
from console.dependencies import dependencies
from console.pages.render import live_page

blueprint = Blueprint("shards", __name__)


@blueprint.get("/shards")
@requires(Role.VIEWER)
def show() -> Response:
    """Show each shard, and each relay that has joined."""
    using = dependencies()
    shards = using.store.status()
    return live_page(
        "shards",
        shards=shards,
        relays=using.pages.relays(),
        identity=using.store.identity(),
        numbers=[shard.shard for shard in shards],
        may_pause=may(Role.OPERATOR),
        typed={},
        errors={},
    )
