"""Who owns which shard: leases in the database, timed by the database's clock.

A lease decides which relay should send. Kafka's fencing ensures that no other relay can, and the progress record that
nothing is sent twice. So exactly-once delivery does not depend on when a lease ends.
"""

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.errors import LeaseLostError
from outbox.models import Lease, RelayMember, ShardAssignment
from outbox.progress import KAFKA_WENT_BACK_PREFIX
from outbox.sql import shards as sql
from outbox.sql.statement import Statement


class Leases:
    """The leases of one relay process.

    Args:
        owner: unique for each start of a process, never used again.
        lease_seconds: how long a lease, and the heartbeat, last without renewal.
        paused_too: take paused shards as well; for maintenance that sends nothing.
    """

    def __init__(self, engine: Engine, owner: str, lease_seconds: float, *, paused_too: bool = False) -> None:
        self._engine = engine
        self.owner = owner
        self.lease_seconds = lease_seconds
        self._paused_too = paused_too

    def take(self, shard: int, dead_owner: str | None = None) -> Lease | None:
        """Take the shard with a new epoch if it is free, ours, expired or ``dead_owner``'s; otherwise return None.

        Also returns None while the shard is paused.
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
        """Renew a lease, and store the shard's rate.

        Args:
            rows_per_second: since the last renewal.
            condition: why some of its rows or calls wait nevertheless; None: none do.

        Raises:
            LeaseLostError: another epoch holds the shard.
        """
        self._renew(sql.RENEW_LEASE, lease, rows_per_second=rows_per_second, condition=condition)

    def extend(self, lease: Lease) -> None:
        """Renew a lease for maintenance: the condition that an operator is about to remedy stays until it is remedied.

        Raises:
            LeaseLostError: another epoch holds the shard.
        """
        self._renew(sql.EXTEND_LEASE, lease)

    def _renew(self, query: Statement, lease: Lease, **values: object) -> None:
        with transactions.write(self._engine) as connection:
            parameters = {**_identify(lease), "lease_ms": self._lease_ms, **values}
            if not connection.execute(query.on(connection), parameters).rowcount:
                raise LeaseLostError(
                    f"the lease of shard {lease.shard} (epoch {lease.epoch}) was taken by another relay"
                )

    def release(self, lease: Lease) -> None:
        """Release the shard, so that another relay need not wait; does nothing if the lease was lost."""
        with transactions.write(self._engine) as connection:
            connection.execute(sql.RELEASE_LEASE.on(connection), _identify(lease))

    def report(self, shard: int, condition: str | None) -> None:
        """Store in the shard's row why it does not move, unless another relay owns it; None: it does move."""
        parameters = {
            "shard": shard,
            "owner": self.owner,
            "condition": condition,
            "kafka_went_back": f"{KAFKA_WENT_BACK_PREFIX}%",
        }
        with transactions.write(self._engine) as connection:
            connection.execute(sql.SET_CONDITION.on(connection), parameters)

    def owners(self) -> dict[int, str | None]:
        """Return the owner of each shard, dead or alive."""
        with transactions.read(self._engine) as connection:
            return {row.shard: row.owner for row in connection.execute(sql.OWNERS.on(connection))}

    # The relays that share the shards --------------------------------------------------------------

    def heartbeat(self, *, healthy: bool) -> None:
        """Join the relays that share the shards, or stay one of them, for another ``lease_seconds``."""
        with transactions.write(self._engine) as connection:
            values = {"owner": self.owner, "lease_ms": self._lease_ms, "healthy": int(healthy)}
            connection.execute(sql.HEARTBEAT.on(connection), values)

    def leave(self, owner: str | None = None) -> None:
        """Remove this relay, or a dead one, from those that share the shards."""
        with transactions.write(self._engine) as connection:
            connection.execute(sql.LEAVE.on(connection), {"owner": owner or self.owner})

    def relays_and_shards(self) -> tuple[list[RelayMember], list[ShardAssignment]]:
        """Return the relays, in the order in which they joined, and the shards."""
        with transactions.read(self._engine) as connection:
            members = connection.execute(sql.MEMBERS.on(connection)).all()
            assignments = connection.execute(sql.ASSIGNMENTS.on(connection)).all()
        return (
            [RelayMember(owner, bool(healthy), bool(live)) for owner, healthy, live in members],
            [ShardAssignment(shard, owner, bool(leased), *pause) for shard, owner, leased, *pause in assignments],
        )

    @property
    def _lease_ms(self) -> int:
        return round(self.lease_seconds * 1000)


def _identify(lease: Lease) -> dict[str, object]:
    return {"shard": lease.shard, "owner": lease.owner, "epoch": lease.epoch}
