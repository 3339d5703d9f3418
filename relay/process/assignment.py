"""Which shards a relay owns. Each relay decides for itself, from the same two short tables.

Every live relay has a share that depends on the order in which the relays joined; the shares add up to all shards. A
relay with more than its share gives shards back after the batch in hand, one with fewer takes free ones. So no
coordination is needed, and when a relay joins or leaves only as many shards move as necessary.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from outbox.models import RelayMember, ShardAssignment

UNHEALTHY_SECONDS = 15.0
"""Beyond the lease time: a relay gives its shards up if none of them has made progress for this long."""
MAX_ABSENCE_SECONDS = 300.0


class Rebalance(NamedTuple):
    """What a relay does next."""

    start: list[int]
    """Shards to take over."""
    stop: list[int]
    """Shards to give back."""


def fair_share(me: str, members: Sequence[RelayMember], shards: int) -> int:
    """How many shards a relay should own.

    Args:
        me: owner id of the relay.
        members: the live relays, in the order in which they joined.
        shards: how many shards there are.
    """
    # If no relay is healthy, the cause is not in one of them, and all count.
    counted = [m.owner for m in members if m.healthy] or [m.owner for m in members]
    if me not in counted:
        return 0
    rank = counted.index(me)
    return shards // len(counted) + (rank < shards % len(counted))


def plan_rebalance(
    me: str,
    members: Sequence[RelayMember],
    assignments: Sequence[ShardAssignment],
    mine: Collection[int],
    dead: Collection[str],
) -> Rebalance:
    """Decide which shards to take over and which to give back now.

    Args:
        me: owner id of this relay.
        members: every relay, in the order in which they joined, including those whose heartbeat has expired.
        assignments: every shard.
        mine: shards that this relay owns or tries to own.
        dead: owners whose process is known to have ended, even if their leases are still valid.
    """
    live = [m for m in members if m.live and m.owner not in dead]
    open_shards = {a.shard: a for a in assignments if a.paused_by is None}
    wanted = fair_share(me, live, len(open_shards))
    kept = sorted(shard for shard in mine if shard in open_shards)
    free = [
        a.shard
        for a in open_shards.values()
        if a.shard not in mine and (a.owner in (None, me) or not a.leased or a.owner in dead)
    ]
    if free:  # relays that decide at the same moment begin at different shards
        rank = next((n for n, m in enumerate(live) if m.owner == me), 0)
        offset = rank * len(free) // max(1, len(live))
        free = free[offset:] + free[:offset]
    stop = sorted(set(mine) - set(kept)) + kept[wanted:]
    return Rebalance(free[: max(0, wanted - len(kept))], stop)


class Availability:
    """Whether this relay is healthy, as it reports to the others.

    A relay that alone cannot reach Kafka must not keep its share. So it is unhealthy when none of its shards makes
    progress, and becomes healthy again after a while, each time after a longer one.

    Args:
        lease_seconds: how long a lease lasts.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._grace = lease_seconds + UNHEALTHY_SECONDS
        self._absence = 0.0
        self._back_at = 0.0

    def judge(self, workers: Sequence[tuple[float, bool]], now: float) -> bool:
        """Whether the relay is healthy.

        Args:
            workers: for each, when it was last healthy, and whether it owns its shard.
            now: by the same clock.
        """
        progressing = [worker for worker in workers if now - worker[0] < self._grace]
        if any(owned for _, owned in progressing):
            self._absence = self._back_at = 0.0
        if now < self._back_at:
            return False
        if progressing or not workers:
            return True
        self._absence = min(max(2 * self._absence, self._grace), MAX_ABSENCE_SECONDS)
        self._back_at = now + self._absence
        return False
