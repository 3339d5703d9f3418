"""How relays share the shards: evenly, with few moves, and never two relays on one shard."""

from hypothesis import given
from hypothesis import strategies as st

from outbox.models import RelayMember, ShardAssignment
from relay.process.assignment import MAX_ABSENCE_SECONDS, UNHEALTHY_SECONDS, Availability, fair_share, plan_rebalance


def members(*owners: str, unhealthy: tuple[str, ...] = ()) -> list[RelayMember]:
    """Live relays."""
    return [RelayMember(owner, owner not in unhealthy, live=True) for owner in owners]


def assigned(*owners: str | None) -> list[ShardAssignment]:
    """Shards from 0, each with its owner."""
    return [ShardAssignment(number, owner, owner is not None, None, None) for number, owner in enumerate(owners)]


class Fleet:
    """Relays that rebalance in turn; what they decide takes effect at once."""

    def __init__(self, shards: int) -> None:
        self.owners: list[str | None] = [None] * shards
        self.relays: list[str] = []
        self.moves = 0

    def rebalance(self) -> None:
        """Let every relay rebalance until nothing changes."""
        for _ in range(4):
            for me in self.relays:
                mine = [n for n, owner in enumerate(self.owners) if owner == me]
                plan = plan_rebalance(me, members(*self.relays), assigned(*self.owners), mine, ())
                for shard in plan.stop:
                    self.owners[shard] = None
                for shard in plan.start:
                    assert self.owners[shard] is None, f"shard {shard} has two owners"
                    self.owners[shard] = me
                    self.moves += 1

    def check_even(self) -> None:
        """Every shard has an owner, and no relay has two more than another."""
        assert None not in self.owners
        counts = [self.owners.count(name) for name in self.relays]
        assert max(counts) - min(counts) <= 1, counts


@given(st.integers(1, 24), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_shards_are_even_and_few_move_when_relays_come_and_go(shards: int, events: list[int]) -> None:
    """After each change the shares are even, and about one share of shards has moved."""
    fleet = Fleet(shards)
    for number, event in enumerate(events):
        before, moves = len(fleet.relays), fleet.moves
        if event < 6 or not fleet.relays:
            fleet.relays.append(f"relay-{number}")
        else:
            gone = fleet.relays.pop(event % len(fleet.relays))
            fleet.owners = [None if owner == gone else owner for owner in fleet.owners]
        fleet.rebalance()
        if fleet.relays:
            fleet.check_even()
            share = -(-shards // max(1, min(before, len(fleet.relays))))
            assert fleet.moves - moves <= share + len(fleet.relays)


@given(st.integers(0, 99), st.integers(1, 12))
def test_the_shares_add_up_to_all_shards(shards: int, relays: int) -> None:
    """However many relays there are."""
    live = members(*map(str, range(relays)))
    assert sum(fair_share(m.owner, live, shards) for m in live) == shards


def test_an_unhealthy_relay_has_no_share() -> None:
    """The others have all shards."""
    live = members("a", "b", unhealthy=("a",))
    assert fair_share("a", live, 4) == 0
    assert fair_share("b", live, 4) == 4


def test_unhealthy_relays_keep_their_shares_if_none_is_healthy() -> None:
    """The cause is not in one of them, so moving shards would not help."""
    assert fair_share("a", members("a", "b", unhealthy=("a", "b")), 4) == 2


def test_the_shards_of_a_dead_process_are_free() -> None:
    """Even if their leases are still valid. A shard of a live process is not free."""
    relays = [
        RelayMember("dead", healthy=True, live=True),
        RelayMember("silent", healthy=True, live=False),
        *members("me"),
    ]
    assert plan_rebalance("me", relays, assigned("dead", "other", None), (), {"dead"}).start == [0, 2]


def test_a_shard_whose_lease_expired_is_free() -> None:
    """Whoever owned it."""
    expired = ShardAssignment(0, "old", leased=False, paused_by=None, paused_reason=None)
    assert plan_rebalance("me", members("me"), [expired], (), ()) == ([0], [])


def test_a_paused_shard_is_given_back() -> None:
    """It counts in no share."""
    paused = ShardAssignment(0, "me", leased=True, paused_by="ann", paused_reason="drill")
    assert plan_rebalance("me", members("me"), [paused], [0], ()) == ([], [0])


def test_a_paused_shard_is_not_taken_over() -> None:
    """Even if it has no owner."""
    paused = ShardAssignment(0, None, leased=False, paused_by="ann", paused_reason="drill")
    assert plan_rebalance("me", members("me"), [paused], (), ()) == ([], [])


def test_a_shard_that_no_longer_exists_is_given_up() -> None:
    """After a reshard to fewer shards."""
    assert plan_rebalance("me", members("me"), assigned("me"), [0, 1], ()).stop == [1]


LEASE_SECONDS = 10.0
GRACE_SECONDS = LEASE_SECONDS + UNHEALTHY_SECONDS


def test_a_relay_without_shards_is_healthy() -> None:
    """It may be a standby."""
    assert Availability(LEASE_SECONDS).judge([], 0)


def test_a_relay_is_healthy_while_one_of_its_shards_makes_progress() -> None:
    """The others may be blocked."""
    assert Availability(LEASE_SECONDS).judge([(0.0, False), (24.0, False)], 24 + GRACE_SECONDS - 1)


def test_a_relay_without_progress_is_unhealthy_for_a_while_each_time_longer() -> None:
    """The first time as long as the grace period, then twice as long, up to the maximum."""
    availability, now, absences = Availability(LEASE_SECONDS), 0.0, []
    for _ in range(6):
        now += GRACE_SECONDS
        assert not availability.judge([(now - GRACE_SECONDS, False)], now)
        began = now
        while not availability.judge([], now):
            now += 1
        absences.append(now - began)
    assert absences == [25, 50, 100, 200, MAX_ABSENCE_SECONDS, MAX_ABSENCE_SECONDS]


def test_a_relay_is_healthy_again_as_soon_as_it_owns_a_shard_that_makes_progress() -> None:
    """Its absence ends early, and the next one is short again."""
    availability = Availability(LEASE_SECONDS)
    assert not availability.judge([(0.0, False)], 100)
    assert availability.judge([(101.0, True)], 101)
    assert not availability.judge([(101.0, False)], 200)
    assert availability.judge([], 200 + GRACE_SECONDS)
