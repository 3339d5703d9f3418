"""Who owns which shard: leases in the database, by the database's clock.

A lease says who should send. That nobody else *can* is the broker's fencing; that nothing is sent
twice is the progress record. So a lease may end early or late without harm to the promise.
"""

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.errors import LeaseLostError
from outbox.models import Lease, RelayMember, ShardAssignment
from outbox.sql import shards as sql


class Leases:
    """The leases of one relay process.

    Args:
        engine: of the outbox.
        owner: unique per start of a process, never used again.
        lease_seconds: how long a lease, and the heartbeat, last without renewal.
        paused_too: take paused shards as well; for those who look after a shard and send nothing.
    """

    def __init__(self, engine: Engine, owner: str, lease_seconds: float, *, paused_too: bool = False) -> None:
        self._engine = engine
        self.owner = owner
        self.lease_seconds = lease_seconds
        self._paused_too = paused_too

    def take(self, shard: int, dead_owner: str | None = None) -> Lease | None:
        """Take the shard, with a new epoch, if it is free, ours, run out, or ``dead_owner``'s; else None.

        None also while the shard is paused.
        """
        parameters = {
            "shard": shard,
            "owner": self.owner,
            "dead_owner": dead_owner or self.owner,
            "lease_ms": self._lease_ms,
            "paused_too": int(self._paused_too),
        }
        with transactions.write(self._engine) as connection:
            taken = connection.execute(sql.TAKE_LEASE.on(connection), parameters).one_or_none()
        return Lease(shard, self.owner, taken.epoch, taken.acknowledged_sequence) if taken else None

    def renew(self, lease: Lease, rows_per_second: float, condition: str | None = None) -> None:
        """Prolong a lease whose shard is in order, and note its rate.

        Args:
            lease: held.
            rows_per_second: since the last renewal.
            condition: why rows of it, or their calls, wait nevertheless; None: none do.

        Raises:
            LeaseLostError: another epoch holds the shard.
        """
        parameters = {**_named(lease), "lease_ms": self._lease_ms, "rows_per_second": rows_per_second}
        parameters["condition"] = condition
        with transactions.write(self._engine) as connection:
            if not connection.execute(sql.RENEW_LEASE.on(connection), parameters).rowcount:
                raise LeaseLostError(
                    f"the lease of shard {lease.shard} (epoch {lease.epoch}) was taken by another relay"
                )

    def release(self, lease: Lease) -> None:
        """Give the shard back, so that another relay need not wait; nothing happens if it was lost."""
        with transactions.write(self._engine) as connection:
            connection.execute(sql.RELEASE_LEASE.on(connection), _named(lease))

    def report(self, shard: int, condition: str | None) -> None:
        """Say on the shard's row why it does not move (None: it does), unless another relay holds it."""
        parameters = {"shard": shard, "owner": self.owner, "condition": condition}
        with transactions.write(self._engine) as connection:
            connection.execute(sql.SET_CONDITION.on(connection), parameters)

    def owners(self) -> dict[int, str | None]:
        """Owner of each shard, dead or alive."""
        with transactions.read(self._engine) as connection:
            return {row.shard: row.owner for row in connection.execute(sql.OWNERS.on(connection))}

    # Sharing ---------------------------------------------------------------------------------------

    def heartbeat(self, *, healthy: bool) -> None:
        """Be one of the relays that share the shards, for another ``lease_seconds``."""
        with transactions.write(self._engine) as connection:
            values = {"owner": self.owner, "lease_ms": self._lease_ms, "healthy": int(healthy)}
            connection.execute(sql.HEARTBEAT.on(connection), values)

    def leave(self, owner: str | None = None) -> None:
        """Take this relay, or one that is gone, out of those that share the shards."""
        with transactions.write(self._engine) as connection:
            connection.execute(sql.LEAVE.on(connection), {"owner": owner or self.owner})

    def shared(self) -> tuple[list[RelayMember], list[ShardAssignment]]:
        """The relays, in the order in which they joined, and the shards."""
        with transactions.read(self._engine) as connection:
            members = connection.execute(sql.MEMBERS.on(connection)).all()
            assignments = connection.execute(sql.ASSIGNMENTS.on(connection)).all()
        return (
            [RelayMember(owner, bool(healthy), bool(live)) for owner, healthy, live in members],
            [ShardAssignment(shard, owner, bool(held), *pause) for shard, owner, held, *pause in assignments],
        )

    @property
    def _lease_ms(self) -> int:
        return round(self.lease_seconds * 1000)


def _named(lease: Lease) -> dict[str, object]:
    return {"shard": lease.shard, "owner": lease.owner, "epoch": lease.epoch}
