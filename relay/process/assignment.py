"""Which shards this relay should send: decided by each relay for itself, from the same two short tables.

Every relay that is there has a share, fixed by the order in which the relays joined; the shares add up
to all shards. Who has more than its share gives shards back after the batch in hand, who has less takes
free ones. So nobody asks anybody, and when a relay comes or goes no more shards move than must.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from outbox.models import RelayMember, ShardAssignment

UNHEALTHY_SECONDS = 15.0
"""Beyond the lease time: when none of its shards has moved for so long, a relay leaves them to others."""
MAX_ABSENCE_SECONDS = 300.0


class Rebalance(NamedTuple):
    """What a relay does next."""

    start: list[int]
    """Shards to take."""
    stop: list[int]
    """Shards to give back."""


def fair_share(me: str, members: Sequence[RelayMember], shards: int) -> int:
    """How many shards this relay should send.

    Args:
        me: this relay.
        members: the relays that are there, in the order in which they joined.
        shards: how many there are to share.
    """
    # While no relay gets on with its shards the cause is not in one of them, and all count.
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
    """What to take and what to give back now.

    Args:
        me: this relay.
        members: in the order in which they joined, those included whose heartbeat has run out.
        holdings: every shard.
        mine: shards that this relay sends or tries to send.
        dead: owners whose process is known to be gone, however long their leases last.
    """
    there = [m for m in members if m.live and m.owner not in dead]
    open_shards = {h.shard: h for h in assignments if h.paused_by is None}
    wanted = fair_share(me, there, len(open_shards))
    kept = sorted(shard for shard in mine if shard in open_shards)
    free = [
        h.shard
        for h in open_shards.values()
        if h.shard not in mine and (h.owner in (None, me) or not h.held or h.owner in dead)
    ]
    if free:  # relays that look at the same moment begin at different ends
        rank = next((n for n, m in enumerate(there) if m.owner == me), 0)
        turn = rank * len(free) // max(1, len(there))
        free = free[turn:] + free[:turn]
    stop = sorted(set(mine) - set(kept)) + kept[wanted:]
    return Rebalance(free[: max(0, wanted - len(kept))], stop)


class Availability:
    """Whether this relay gets on with its shards, as others should hear it.

    A relay that alone cannot reach Kafka would keep its share for ever. So it stands back when none of
    its shards moves, and comes back after a while, a longer one each time.

    Args:
        lease_seconds: how long a lease lasts.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._patience = lease_seconds + UNHEALTHY_SECONDS
        self._absence = 0.0
        self._back_at = 0.0

    def judge(self, workers: Sequence[tuple[float, bool]], now: float) -> bool:
        """Whether it gets on.

        Args:
            workers: of each, when it was last in order or waited for something that no relay can help,
                and whether it holds its shard.
            now: by the same clock.
        """
        moving = [holds for at, holds in workers if now - at < self._patience]
        if any(moving):
            self._absence = self._back_at = 0.0
        if now < self._back_at:
            return False
        if moving or not workers:
            return True
        self._absence = min(max(2 * self._absence, self._patience), MAX_ABSENCE_SECONDS)
        self._back_at = now + self._absence
        return False
