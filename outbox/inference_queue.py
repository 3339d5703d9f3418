"""The queue of inference calls: at least once, never lost, in order for each interaction."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.models import CallResult, InferenceCall
from outbox.sql import inference_queue as sql
from outbox.sql.statement import Statement, bind_numbers, bind_rows, bind_texts
from outbox.states import CallState

CLAIM_MS = 60_000
"""How long a claim lasts; longer than any call."""
WINDOW = 1_000
"""Maximum number of calls that one claim, or one query for the oldest, reads."""
MAX_BATCH_CALLS = 10
"""Calls of one interaction in one claim."""

_RESULT_COLUMNS = ("row_id", "state", "attempts", "status", "error", "latency_ms", "wait_ms", "claimed_until_ms")


class InferenceQueue:
    """The inference calls of one outbox.

    Args:
        owner: the name under which calls are claimed.
    """

    def __init__(self, engine: Engine, owner: str) -> None:
        self._engine = engine
        self._owner = owner

    def any_due(self) -> bool:
        """Return whether there may be something to claim; a read, so that idle workers lock nothing."""
        with transactions.read(self._engine) as connection:
            return connection.execute(sql.ANY_DUE.on(connection)).first() is not None

    def claim(self, limit: int, batch: int = MAX_BATCH_CALLS) -> list[list[InferenceCall]]:
        """Claim the next calls of interactions, as batches that are each to be made in order.

        A call whose result is not recorded is due again when the claim expires.

        Args:
            limit: maximum number of batches.
            batch: maximum number of calls in a batch, all of one interaction.
        """
        with transactions.write(self._engine) as connection:
            parameters = {**self._times(connection), "owner": self._owner, "limit": limit, "window": WINDOW}
            first_due = [row.row_id for row in connection.execute(sql.CLAIM_FIRST_DUE.on(connection), parameters)]
            if not first_due:
                return []
            followers = self._claim_followers(connection, first_due, batch - 1) if batch > 1 else []
            ids = bind_numbers(connection, [*first_due, *followers])
            batches: dict[str, list[InferenceCall]] = defaultdict(list)
            for row in connection.execute(sql.CLAIMED_CALLS.on(connection), {"ids": ids}):
                batches[row.interaction_id].append(InferenceCall(*row))
            return list(batches.values())

    def _claim_followers(self, connection: Connection, first_due: list[int], more: int) -> list[int]:
        parameters = {"ids": bind_numbers(connection, first_due), "more": more}
        free: list[int] = []
        blocked = set()
        for row in connection.execute(sql.FOLLOWERS.on(connection), parameters):
            if not row.free:
                blocked.add(row.interaction_id)  # what follows another worker's call has to wait for it
            if row.interaction_id not in blocked:
                free.append(row.row_id)
        if not free:
            return []
        until = self._times(connection)["until"]
        parameters = {"ids": bind_numbers(connection, free), "owner": self._owner, "until": until}
        return list(connection.execute(sql.CLAIM_FOLLOWERS.on(connection), parameters).scalars())

    def defer_blocked(self) -> int:
        """Defer calls that are blocked by earlier ones of their interaction; return how many.

        For a claim that found less than it wanted. A separate transaction: the next claim's index scan then skips what
        was deferred.
        """
        with transactions.write(self._engine) as connection:
            parameters = {
                "now": self._times(connection)["now"],
                "window": WINDOW,
                "blocked_delay_ms": sql.BLOCKED_DELAY_MS,
            }
            return connection.execute(sql.DEFER_BLOCKED.on(connection), parameters).rowcount

    def release_claims_of(self, is_dead: Callable[[str], bool]) -> None:
        """Make the claims of workers that are known to be dead due at once, before they expire."""
        with transactions.write(self._engine) as connection:
            times = self._times(connection)
            claimants = connection.execute(sql.CLAIMANTS.on(connection), times).scalars().all()
            for owner in filter(is_dead, claimants):
                connection.execute(sql.RELEASE_CLAIMS.on(connection), {**times, "owner": owner})

    def record_results(self, results: Sequence[CallResult]) -> None:
        """Record the results of claimed calls in one transaction.

        The end of a call makes the next call of its interaction due.
        """
        finished = [r for r in results if r.state != CallState.DUE]
        retried = [r for r in results if r.state == CallState.DUE and r.tried]
        untried = [r for r in results if not r.tried]
        with transactions.write(self._engine) as connection:
            if finished:
                interactions = sorted(set(self._write(connection, sql.RECORD_FINISHED, finished)))
                parameters = {"interactions": bind_texts(connection, interactions)}
                connection.execute(sql.WAKE_NEXT.on(connection), parameters)
            if retried:
                self._write(connection, sql.RECORD_RETRY, retried)
            if untried:
                self._write(connection, sql.GIVE_BACK, untried)

    def _write(self, connection: Connection, query: Statement, results: Sequence[CallResult]) -> Iterable[str]:
        """Write results with one statement; return the interactions of the calls that were changed."""
        rows = list(map(attrgetter(*_RESULT_COLUMNS), results))
        values = {"owner": self._owner, **bind_rows(connection, _RESULT_COLUMNS, rows)}
        return connection.execute(query.on(connection), values).scalars().all()

    def oldest_age_ms(self) -> int | None:
        """Return the age, since its row was sent, of the oldest call that is due; None without one.

        Reads the ``WINDOW`` calls that are due next: exact while no more are due, and cheap however many are.
        """
        with transactions.read(self._engine) as connection:
            parameters = {"now": self._times(connection)["now"], "window": WINDOW}
            age: int | None = connection.execute(sql.OLDEST_DUE_AGE.on(connection), parameters).scalar_one()
            return age

    @staticmethod
    def _times(connection: Connection) -> dict[str, int]:
        """Return the time now, by the database's clock, and when a claim made now expires."""
        now = int(connection.execute(sql.NOW_FORCING_INDEX_SCANS.on(connection)).scalar_one())
        return {"now": now, "until": now + CLAIM_MS}
