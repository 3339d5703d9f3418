"""Shards in the hands of an operator's verb: leased and fenced like by a relay, and given back at the end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.leases import Leases
from outbox.models import Lease
from relay.errors import UnavailableError
from relay.health import Health
from relay.kafka.encoder import Encoder
from relay.kafka.progress import StoredProgress
from relay.metrics import RelayMetrics
from relay.process.services import RelayServices, connect_services
from relay.process_lock import ProcessLock
from relay.settings import RelaySettings
from relay.shard.worker import OwnedShard, ShardServices, ShardWorker

LEASE_SECONDS = 60.0
"""Long enough for the slowest step; renewed between steps."""
RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 15.0
"""Beyond a relay's lease time: how long a paused shard may take to be given back."""


class ShardMaintenance:
    """What an operator's verb holds while it looks after shards.

    Args:
        prepared: the services.
        patience_seconds: how long to wait for a shard that a relay is about to give back.
    """

    def __init__(self, services: RelayServices, patience_seconds: float) -> None:
        self.services = services
        self._patience_seconds = patience_seconds
        self._pause = threading.Event()  # never set: a verb ends by itself or by an exception
        self._workers: dict[int, ShardWorker] = {}
        self._sending: dict[int, OwnedShard] = {}
        self.leases: dict[int, Lease] = {}
        self.shard_services: ShardServices = services.shard_services(
            self._pause, Health(), RelayMetrics(CollectorRegistry())
        )

    def take(self, shard: int, *, sends: bool = False) -> tuple[ShardWorker, OwnedShard]:
        """Take a shard's lease and fence earlier producers (steps 1 and 2), paused or not.

        Args:
            shard: its number.
            sends: keep its producer; otherwise that it has fenced is all that matters.

        Raises:
            UnavailableError: another one holds it and does not give it back.
        """
        worker = ShardWorker(shard, self.shard_services)
        self._workers[shard] = worker
        deadline = monotonic() + self._patience_seconds
        while (held := worker.take()) is None:
            if monotonic() > deadline:
                owner = self.shard_services.leases.owners().get(shard)
                raise UnavailableError(
                    f"shard {shard} is held by {owner}: pause it first (relay pause --shard {shard} --reason …), "
                    "or stop that relay"
                )
            self._pause.wait(RETRY_SECONDS)
        self.leases[shard] = held.lease
        if sends:
            self._sending[shard] = held
        else:
            held.publisher.close()
        return worker, held

    def read_back(self, shard: int, below: int) -> StoredProgress | None:
        """The shard's last progress record whose sequence is below a number."""
        return self.services.read_back(shard, self._pause, below)

    def renew(self) -> None:
        """Prolong every lease in hand.

        Raises:
            LeaseLostError: one was taken by another relay.
        """
        for lease in self.leases.values():
            self.shard_services.leases.renew(lease, 0.0)

    def give_back(self, shard: int) -> None:
        """Let go of a shard, held or not."""
        self.leases.pop(shard, None)
        if held := self._sending.pop(shard, None):
            held.publisher.close()
        if worker := self._workers.pop(shard, None):
            worker.give_back()

    def give_all_back(self) -> None:
        """Let go of every shard."""
        for shard in list(self._workers):
            self.give_back(shard)


@contextmanager
def maintain_shards(settings: RelaySettings, engine: Engine) -> Iterator[ShardMaintenance]:
    """Find the services once, hold shards inside the block, and give them back whatever happens.

    Raises:
        RelayError, OutboxError: a service is away, or the settings do not fit.
    """
    owner = ProcessLock()
    try:
        leases = Leases(engine, owner.id, LEASE_SECONDS, paused_too=True)
        # Nothing is encoded here, so that the registry need not be there.
        services = connect_services(settings, engine, leases, encoder=lambda _: Encoder(0))
        held = ShardMaintenance(services, settings.relay_lease_seconds + PATIENCE_SECONDS)
        try:
            yield held
        finally:
            held.give_all_back()
    finally:
        owner.close()
