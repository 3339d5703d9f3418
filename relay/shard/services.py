"""What the shards of one process share."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from config.tracing import NO_TRACER, Tracer
from outbox.leases import Leases
from outbox.models import PendingRow
from outbox.notifications import Listener
from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.health import Health
from relay.kafka.encoder import Encoder
from relay.kafka.shard_clients import ShardClients
from relay.metrics import RelayMetrics
from relay.shard.fair_semaphore import FairSemaphore


def ignore_steps(_name: str, _shard: int) -> None:
    """Do nothing at a step."""


@dataclass(frozen=True)
class ShardServices:
    """Every service, clock and signal that a shard uses; one object for all shards of a process."""

    store: Store
    leases: Leases
    encoder: Encoder
    clients: ShardClients
    check_identity: Callable[[], None]
    """Raises if database, topics or cluster are not those that this outbox was used with."""
    dead_owner: Callable[[int], str | None]
    """The shard's owner, if its process is known to be dead."""
    batch_size: int
    """Maximum number of rows in a transaction."""
    block_behind_parked: bool
    """Whether rows wait behind a parked row of their interaction."""
    inference: bool
    """Whether each row that is marked sent makes an inference call due."""
    listener: Listener
    health: Health
    metrics: RelayMetrics
    drain_signal: DrainSignal
    send_slots: FairSemaphore
    """Limits how many shards run a cycle at the same time."""
    enrich: Callable[[list[PendingRow]], list[PendingRow]] = list
    """Adds what CXone knows, and returns the rows that may be sent now, within seconds. Raises ``RowsAtFaultError``
    for rows that can never be completed."""
    tracer: Tracer = NO_TRACER
    step: Callable[[str, int], None] = ignore_steps
    """Called at each step of the protocol; tests use it to stop or kill the process there."""
    clock: Callable[[], float] = monotonic
    """Seconds."""
