"""Which shards prevent a reshard."""

import pytest

from outbox.models import ShardStatus
from relay.process.reshard import sending_shards

IDLE = ShardStatus(0, None, 1, 0, 0, 0.0, None, 0, 0, 0, 0, None, None, None, None)
SENDING = IDLE._replace(owner="relay-1", lease_remaining_ms=5_000)


@pytest.mark.parametrize(
    ("shard", "prevents"),
    [
        (SENDING, True),
        (IDLE, False),
        (SENDING._replace(lease_remaining_ms=0), False),
        (SENDING._replace(paused_by="ann"), False),
    ],
    ids=["sending", "without owner", "lease expired", "paused"],
)
def test_only_a_live_unpaused_owner_prevents_a_reshard(shard: ShardStatus, *, prevents: bool) -> None:
    """A paused shard is about to be given back."""
    assert sending_shards([shard]) == [shard] * prevents
