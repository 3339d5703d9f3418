"""Plans in memory: whose they are, how long they live, and that each is used once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from console.planner import PlanRequest
from console.plans import LIFETIME_SECONDS, PLAN_BYTES, Owner, Plans
from outbox.errors import InvalidRequestError
from outbox.operators.plan import Plan
from outbox.operators.planned_change import PlannedChange, Verb
from outbox.operators.rows import RowFilter

ANN = Owner("session", "ann")
ASKED = PlanRequest(Verb.RETRY, RowFilter(), "")
CHANGE = PlannedChange(Verb.RETRY, RowFilter(), Plan([]), lambda _chunk, _context: [], (), ())


def test_a_plan_is_taken_once() -> None:
    """Of many confirmations at the same time, one gets the plan."""
    plans = Plans(lambda: 0.0)
    plan_id = plans.add(ASKED, CHANGE, ANN)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: plans.take(plan_id, ANN), range(50)))
    assert sum(kept is not None for kept in taken) == 1
    assert plans.find(plan_id, ANN) is None


def test_a_plan_is_of_one_session() -> None:
    """Neither another session of the user nor another user gets it; it stays for its owner."""
    plans = Plans(lambda: 0.0)
    plan_id = plans.add(ASKED, CHANGE, ANN)
    for other in (Owner("other", "ann"), Owner("session", "bob")):
        assert plans.find(plan_id, other) is None
        assert plans.take(plan_id, other) is None
    assert plans.take(plan_id, ANN) is not None


def test_a_plan_expires() -> None:
    """After its life it cannot be confirmed."""
    now = [0.0]
    plans = Plans(lambda: now[0])
    plan_id = plans.add(ASKED, CHANGE, ANN)
    now[0] = LIFETIME_SECONDS
    assert plans.find(plan_id, ANN) is not None
    now[0] += 0.001
    assert plans.take(plan_id, ANN) is None


@pytest.mark.parametrize("session", [ANN.session, "next"])
def test_plans_of_one_user_make_room_for_their_next(session: str) -> None:
    """The memory for plans is bounded: the user's oldest plan goes first, whichever of their sessions made it."""
    plans = Plans(lambda: 0.0, 2 * PLAN_BYTES)
    owners = [ANN, ANN, Owner(session, "ann")]
    ids = [plans.add(ASKED, CHANGE, owner) for owner in owners]
    assert [plans.find(*each) is not None for each in zip(ids, owners, strict=True)] == [False, True, True]
    with pytest.raises(InvalidRequestError, match="other plans take all memory"):
        plans.add(ASKED, CHANGE, Owner("other", "bob"))


def test_ids_that_were_asked_for_take_memory() -> None:
    """Whether or not the outbox has their rows: the plan keeps them, and so does its command."""
    asked = PlanRequest(Verb.RETRY, RowFilter(ids=tuple(range(1, 1_001))), "")
    with pytest.raises(InvalidRequestError, match="other plans take all memory"):
        Plans(lambda: 0.0, 10 * PLAN_BYTES).add(asked, CHANGE, ANN)
