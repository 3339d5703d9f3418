"""``/shards``: shards, the relays that own them, and pauses."""

from flask import Blueprint, Response

from console.access import Role, requires
from console.dependencies import dependencies
from console.pages.render import live_page

blueprint = Blueprint("shards", __name__)


@blueprint.get("/shards")
@requires(Role.VIEWER)
def show() -> Response:
    """Show each shard, and each relay that has joined."""
    using = dependencies()
    shards, relays = using.store.status(), using.pages.relays()
    return live_page("shards", shards=shards, relays=relays, identity=using.store.identity())
