"""The verbs of inference calls: claim, settle. At least once, never lost, in order per interaction."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from sqlalchemy import Engine

from outbox import statements as sql
from outbox import transactions
from outbox.rows import CallResult, InferenceCall


class Calls:
    """The inference calls of one outbox.

    Args:
        engine: of the outbox.
        owner: who claims.
    """

    def __init__(self, engine: Engine, owner: str) -> None:
        self._engine = engine
        self._owner = owner

    def claim(self, limit: int, claim_seconds: float) -> list[InferenceCall]:
        """Claim calls that are due, the first of each interaction; unanswered ones come back after the claim."""
        parameters = {"owner": self._owner, "limit": limit, "claim_ms": round(claim_seconds * 1000)}
        with transactions.write(self._engine) as connection:
            ids = connection.execute(sql.CLAIM_CALLS.on(connection), parameters).scalars().all()
            if not ids:
                return []
            query = sql.CLAIMED_CALLS.on(connection)
            found = connection.execute(query, {"ids": sql.bind_list(connection, list(ids))})
            return sorted((InferenceCall(*row) for row in found), key=lambda call: call.row_id)

    def release_claims_of(self, is_dead: Callable[[str], bool]) -> None:
        """Make the claims of workers that are known to be dead due at once, rather than when they run out."""
        with transactions.write(self._engine) as connection:
            claimants = connection.execute(sql.CLAIMANTS.on(connection)).scalars().all()
            for owner in filter(is_dead, claimants):
                connection.execute(sql.RELEASE_CLAIMS.on(connection), {"owner": owner})

    def settle(self, results: Sequence[CallResult]) -> None:
        """Record what became of claimed calls, in one transaction."""
        if results:
            with transactions.write(self._engine) as connection:
                connection.execute(sql.SETTLE_CALL.on(connection), [asdict(result) for result in results])
