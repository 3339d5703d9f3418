"""The outbox: used with the settings it was used with before."""

from outbox.models import Identity
from relay.check.finding import Finding, failure, ok
from relay.identity import changed_settings
from relay.settings import RelaySettings


def judge_identity(settings: RelaySettings, identity: Identity, cluster_id: str) -> Finding:
    """Compare the settings with those the outbox was used with. A relay refuses to start with others."""
    changed = changed_settings(settings, identity, cluster_id)
    if settings.relay_shards not in (None, identity.shards):
        changed.insert(0, f"RELAY_SHARDS was {identity.shards}, is {settings.relay_shards}")
    if changed:
        remedy = "restore the settings it was used with: sending with these could lose or duplicate rows"
        return failure("outbox", "; ".join(changed), remedy)
    use = f"used with topic {identity.topic}" if identity.topic else "not yet used with a topic"
    return ok("outbox", f"{identity.shards} shard(s), {use}")
