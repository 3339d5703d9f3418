"""How relays share shards, decided by each for itself: even, with as few moves as must be, and never two on one."""

from hypothesis import given
from hypothesis import strategies as st

from outbox.models import RelayMember, ShardAssignment
from relay.process.assignment import MAX_ABSENCE_SECONDS, Availability, fair_share, plan_rebalance


def members(*owners: str, unable: tuple[str, ...] = ()) -> list[RelayMember]:
    """Live relays."""
    return [RelayMember(owner, owner not in unable, live=True) for owner in owners]


def held(*owners: str | None) -> list[ShardAssignment]:
    """Shards by number, each with its owner."""
    return [ShardAssignment(number, owner, owner is not None, None, None) for number, owner in enumerate(owners)]


class Fleet:
    """Relays that look at the tables in turn, and whose orders take effect at once."""

    def __init__(self, shards: int) -> None:
        self.owners: list[str | None] = [None] * shards
        self.there: list[str] = []
        self.moves = 0

    def settle(self) -> None:
        """Everybody looks until nobody changes anything."""
        for _ in range(4):
            for me in self.there:
                mine = [n for n, owner in enumerate(self.owners) if owner == me]
                todo = plan_rebalance(me, members(*self.there), held(*self.owners), mine, ())
                for shard in todo.stop:
                    self.owners[shard] = None
                for shard in todo.start:
                    assert self.owners[shard] is None, "a shard that another one holds was taken"
                    self.owners[shard] = me
                    self.moves += 1

    def check_even(self) -> None:
        """Every shard has an owner, and no relay has two more than another."""
        assert None not in self.owners
        counts = [self.owners.count(name) for name in self.there]
        assert max(counts) - min(counts) <= 1


@given(st.integers(1, 24), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_shards_are_even_and_few_move_when_relays_come_and_go(shards: int, events: list[int]) -> None:
    """After each coming or going the shares are even, and no more shards moved than one share or two."""
    fleet = Fleet(shards)
    for number, event in enumerate(events):
        before, moves = len(fleet.there), fleet.moves
        if event < 6 or not fleet.there:
            fleet.there.append(f"relay-{number}")
        else:
            gone = fleet.there.pop(event % len(fleet.there))
            fleet.owners = [None if owner == gone else owner for owner in fleet.owners]
        fleet.settle()
        if fleet.there:
            fleet.check_even()
            most = -(-shards // max(1, min(before, len(fleet.there))))
            assert fleet.moves - moves <= most + len(fleet.there)


@given(st.integers(0, 99), st.integers(1, 12))
def test_the_shares_add_up(shards: int, relays: int) -> None:
    """Nobody claims what another one's share is."""
    there = members(*map(str, range(relays)))
    assert sum(fair_share(m.owner, there, shards) for m in there) == shards


def test_a_relay_that_gets_on_with_nothing_leaves_its_share_to_others() -> None:
    """Unless nobody gets on: then all count, and nothing moves."""
    assert fair_share("a", members("a", "b", unable=("a",)), 4) == 0
    assert fair_share("b", members("a", "b", unable=("a",)), 4) == 4
    assert fair_share("a", members("a", "b", unable=("a", "b")), 4) == 2


def test_dead_and_silent_relays_have_no_share_and_their_shards_are_free() -> None:
    """A dead process's shards are taken although its lease lasts; a live one's are not."""
    there = [
        RelayMember("dead", healthy=True, live=True),
        RelayMember("silent", healthy=True, live=False),
        *members("me"),
    ]
    found = held("dead", "other", None)
    assert plan_rebalance("me", there, found, (), {"dead"}).start == [0, 2]
    assert plan_rebalance(
        "me", members("me"), [ShardAssignment(0, "old", held=False, paused_by=None, paused_reason=None)], (), ()
    ) == (
        [0],
        [],
    )


def test_a_paused_shard_is_given_back_and_not_taken() -> None:
    """It counts in nobody's share."""
    paused = ShardAssignment(0, "me", held=True, paused_by="ann", paused_reason="looking")
    assert plan_rebalance("me", members("me"), [paused, *held("x")[:0]], [0], ()) == ([], [0])
    assert plan_rebalance("me", members("me"), [paused._replace(owner=None, held=False)], (), ()) == ([], [])


def test_a_shard_that_is_no_more_is_given_up() -> None:
    """After a reshard to fewer."""
    assert plan_rebalance("me", members("me"), held("me"), [0, 1], ()).stop == [1]


def test_ability_ends_after_a_while_and_comes_back_after_a_longer_one_each_time() -> None:
    """Lease and patience long nothing moves: unable; then another try; at once able when a shard is in order."""
    ability = Availability(10)
    assert ability.judge([], 0)
    assert ability.judge([(0.0, False), (24.0, False)], 30)
    assert not ability.judge([(0.0, False)], 30)
    assert not ability.judge([], 54)
    assert ability.judge([], 55)
    assert not ability.judge([(55.0, False)], 80)
    assert not ability.judge([], 129)
    assert ability.judge([(129.0, True)], 129)
    for _ in range(20):
        ability.judge([(-1e6, False)], 1e6)
    assert ability._absence <= MAX_ABSENCE_SECONDS
