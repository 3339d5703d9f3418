"""Plans that were shown and not yet confirmed: in memory, for some minutes, each for one session."""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from console.planner import PlanRequest
from outbox.errors import InvalidRequestError
from outbox.operators.planned_change import PlannedChange

LIFETIME_SECONDS = 15 * 60
MAX_BYTES = 64 * 2**20
ROW_BYTES, ID_BYTES, PLAN_BYTES = 24, 144, 8 * 2**10
"""What a row takes, an id that was asked for, and a plan besides these."""


class Owner(NamedTuple):
    """Who may see and confirm a plan."""

    session: str
    user: str


@dataclass(frozen=True)
class KeptPlan:
    """A change that waits for its confirmation."""

    asked: PlanRequest
    change: PlannedChange
    owner: Owner
    at: float
    """In seconds since the epoch."""

    @property
    def at_ms(self) -> int:
        """When it was made, in milliseconds since the epoch."""
        return round(self.at * 1000)

    @property
    def size(self) -> int:
        """Memory that it takes, in bytes."""
        return PLAN_BYTES + ROW_BYTES * len(self.change.plan) + ID_BYTES * len(self.asked.rows.ids)


class Plans:
    """Keeps plans until they are confirmed or too old. Threads may share it.

    Args:
        clock: seconds since the epoch.
        max_bytes: memory that all plans may take together.
    """

    def __init__(self, clock: Callable[[], float], max_bytes: int = MAX_BYTES) -> None:
        self._clock, self._max_bytes = clock, max_bytes
        self._kept: dict[str, KeptPlan] = {}
        self._lock = threading.Lock()

    def add(self, asked: PlanRequest, change: PlannedChange, owner: Owner) -> str:
        """Keep a plan and return its id. Where memory lacks, older plans of its user make room.

        Raises:
            InvalidRequestError: the plans of other users take too much memory.
        """
        kept = KeptPlan(asked, change, owner, self._clock())
        with self._lock:
            self._forget_old()
            own = [plan_id for plan_id, other in self._kept.items() if other.owner.user == owner.user]
            while own and not self._has_room(kept):
                del self._kept[own.pop(0)]
            if not self._has_room(kept):
                raise InvalidRequestError("other plans take all memory for plans: narrow the filter, or wait 15 min")
            plan_id = secrets.token_urlsafe(16)
            self._kept[plan_id] = kept
        return plan_id

    def find(self, plan_id: str, owner: Owner) -> KeptPlan | None:
        """Return a plan of this owner; None: there is none any more."""
        with self._lock:
            self._forget_old()
            kept = self._kept.get(plan_id)
        return kept if kept is not None and kept.owner == owner else None

    def take(self, plan_id: str, owner: Owner) -> KeptPlan | None:
        """Return a plan of this owner and forget it, so that one confirmation gets it; None: there is none any more."""
        with self._lock:
            self._forget_old()
            kept = self._kept.get(plan_id)
            if kept is None or kept.owner != owner:
                return None
            return self._kept.pop(plan_id)

    def _has_room(self, more: KeptPlan) -> bool:
        return more.size + sum(kept.size for kept in self._kept.values()) <= self._max_bytes

    def _forget_old(self) -> None:
        oldest = self._clock() - LIFETIME_SECONDS
        for plan_id in [plan_id for plan_id, kept in self._kept.items() if kept.at < oldest]:
            del self._kept[plan_id]
