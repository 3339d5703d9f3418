"""The verbs of inference calls: claim, settle. At least once, never lost, in order per interaction."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.models import CallResult, InferenceCall
from outbox.sql import inference_queue as sql
from outbox.sql.flow import Statement, bind_list
from outbox.states import CallState

CLAIM_MS = 60_000
"""How long a claim lasts: longer than any call."""
WINDOW = 1_000
"""Calls that one claim, or one look for the oldest, goes through, at most."""
RUN = 10
"""Calls of one interaction that one claim takes."""


class InferenceQueue:
    """The inference calls of one outbox.

    Args:
        engine: of the outbox.
        owner: who claims.
    """

    def __init__(self, engine: Engine, owner: str) -> None:
        self._engine = engine
        self._owner = owner

    def any_due(self) -> bool:
        """Whether there may be something to claim; a read, so that those who idle lock nothing."""
        with transactions.read(self._engine) as connection:
            return connection.execute(sql.ANY_DUE.on(connection)).first() is not None

    def claim(self, limit: int, run: int = RUN) -> list[list[InferenceCall]]:
        """Claim the next calls of interactions that are due: runs, each to be tried in its order.

        What is not settled comes back when the claim runs out.

        Args:
            limit: runs, at most.
            run: calls of one interaction, at most.
        """
        with transactions.write(self._engine) as connection:
            parameters = {**self._span(connection), "owner": self._owner, "limit": limit, "window": WINDOW}
            heads = [row.row_id for row in connection.execute(sql.CLAIM.on(connection), parameters)]
            if not heads:
                return []
            followers = self._claim_followers(connection, heads, run - 1) if run > 1 else []
            ids = bind_list(connection, [*heads, *followers])
            runs: dict[str, list[InferenceCall]] = defaultdict(list)
            for row in connection.execute(sql.CLAIMED.on(connection), {"ids": ids}):
                runs[row.interaction_id].append(InferenceCall(*row))
            return list(runs.values())

    def _claim_followers(self, connection: Connection, heads: list[int], more: int) -> list[int]:
        parameters = {"ids": bind_list(connection, heads), "more": more}
        runs: dict[str, list[int]] = defaultdict(list)
        broken = set()
        for row in connection.execute(sql.FOLLOWERS.on(connection), parameters):
            if not row.free:
                broken.add(row.interaction_id)  # what comes after one in other hands has to wait for it
            if row.interaction_id not in broken:
                runs[row.interaction_id].append(row.row_id)
        wanted = [row_id for run in runs.values() for row_id in run]
        if not wanted:
            return []
        until = self._span(connection)["until"]
        parameters = {"ids": bind_list(connection, wanted), "owner": self._owner, "until": until}
        return list(connection.execute(sql.CLAIM_FOLLOWERS.on(connection), parameters).scalars())

    def defer_blocked(self) -> int:
        """Move calls away that stand behind others of their interaction, where claims look first; return how many.

        For a claim that found less than it wanted. A transaction of its own: what one moves, the next
        one's index scan need not walk over.
        """
        with transactions.write(self._engine) as connection:
            parameters = {**self._span(connection), "window": WINDOW}
            return connection.execute(sql.MOVE_BEHIND.on(connection), parameters).rowcount

    def release_claims_of(self, is_dead: Callable[[str], bool]) -> None:
        """Make the claims of workers that are known to be dead due at once, rather than when they run out."""
        with transactions.write(self._engine) as connection:
            span = self._span(connection)
            claimants = connection.execute(sql.CLAIMANTS.on(connection), span).scalars().all()
            for owner in filter(is_dead, claimants):
                connection.execute(sql.RELEASE_CLAIMS.on(connection), {**span, "owner": owner})

    def settle(self, results: Sequence[CallResult]) -> None:
        """Record what became of claimed calls, in one transaction and one statement a kind.

        What is done or parked wakes the next call of its interaction.
        """
        finished = [r for r in results if r.state != CallState.DUE]
        again = [r for r in results if r.state == CallState.DUE and r.tried]
        untried = [r for r in results if not r.tried]
        with transactions.write(self._engine) as connection:
            if finished:
                interactions = self._write(connection, sql.FINISH, finished)
                parameters = {"interactions": bind_list(connection, interactions)}
                connection.execute(sql.WAKE_NEXT.on(connection), parameters)
            if again:
                self._write(connection, sql.TRY_AGAIN, again)
            if untried:
                self._write(connection, sql.GIVE_BACK, untried)

    def _write(self, connection: Connection, query: Statement, results: Sequence[CallResult]) -> list[str]:
        rows = [asdict(result) for result in results]
        if connection.dialect.name == "postgresql":
            values: dict[str, object] = {name: [row[name] for row in rows] for name in rows[0] if name != "tried"}
        else:
            values = {"results": json.dumps(rows)}
        if query is not sql.FINISH:
            values["owner"] = self._owner
        return sorted(set(connection.execute(query.on(connection), values).scalars()))

    def oldest_age_ms(self) -> int | None:
        """Since its row was sent, of the oldest call that is due; None without one.

        Looked for among the thousand that come next: exact while no more are due, and cheap however many are.
        """
        with transactions.read(self._engine) as connection:
            parameters = {"now": self._span(connection)["now"], "window": WINDOW}
            age: int | None = connection.execute(sql.OLDEST_DUE.on(connection), parameters).scalar_one()
            return age

    @staticmethod
    def _span(connection: Connection) -> dict[str, int]:
        """Now, by the database's clock, and when a claim made now runs out."""
        now = int(connection.execute(sql.NOW_WALKING.on(connection)).scalar_one())
        return {"now": now, "until": now + CLAIM_MS}
