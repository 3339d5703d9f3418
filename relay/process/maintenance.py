"""Shards that an operator's command takes over: leased and fenced as by a relay, and given back at the end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.leases import Leases
from outbox.models import Lease
from relay.errors import UnavailableError
from relay.health import Health
from relay.kafka.client import AdminClient
from relay.kafka.encoder import Encoder
from relay.kafka.progress import StoredProgress
from relay.metrics import RelayMetrics
from relay.process.services import connect_services
from relay.process_lock import ProcessLock
from relay.settings import RelaySettings
from relay.shard.services import ShardServices
from relay.shard.takeover import OwnedShard, Takeover

LEASE_SECONDS = 60.0
"""Longer than the slowest step of a command; renewed between steps."""
RETRY_SECONDS = 0.1
HANDOVER_TIMEOUT_SECONDS = 15.0
"""Beyond a relay's lease time: how long a relay may take to give a paused shard back."""


class ShardMaintenance:
    """The shards that an operator's command owns.

    Args:
        services: of the process.
        timeout_seconds: how long to wait for a shard that a relay is giving back.
    """

    def __init__(self, settings: RelaySettings, services: ShardServices, timeout_seconds: float) -> None:
        self.settings, self.services = settings, services
        self._timeout_seconds = timeout_seconds
        self._stop = threading.Event()  # never set: a command ends by itself or by an exception
        self._takeovers: dict[int, Takeover] = {}
        self._owned: dict[int, OwnedShard] = {}
        self._sending: set[int] = set()

    @property
    def admin(self) -> AdminClient:
        """A new admin client."""
        return self.services.clients.admin

    def take(self, shard: int, *, sends: bool = False) -> OwnedShard:
        """Take a shard's lease and fence earlier producers, whether the shard is paused or not.

        Args:
            shard: its number, from 0.
            sends: keep its producer open; otherwise it only fences.

        Raises:
            UnavailableError: another process owns it and does not give it back.
        """
        takeover = self._takeovers[shard] = Takeover(shard, self.services, self._stop)
        clock = self.services.clock
        deadline = clock() + self._timeout_seconds
        while (owned := takeover.take()) is None:
            if clock() > deadline:
                owner = self.services.leases.owners().get(shard)
                raise UnavailableError(
                    f"shard {shard} is owned by {owner}: pause it first (relay pause --shard {shard} --reason …), "
                    "or stop that relay"
                )
            self._stop.wait(RETRY_SECONDS)
        self._owned[shard] = owned
        if sends:
            self._sending.add(shard)
        else:
            owned.publisher.close()
        return owned

    def recover(self, shard: int) -> None:
        """Mark what the last progress record of a shard that was taken proves to be committed.

        Raises:
            DatabaseWentBackError, KafkaWentBackError: the shard has to be reconciled first.
        """
        self._takeovers[shard].recover(self._owned[shard])

    def read_back(self, shard: int, below: int | None = None) -> StoredProgress | None:
        """Read the shard's last progress record; with ``below``, the last one whose sequence is smaller."""
        return self.services.clients.read_back(shard, self._stop.is_set, below)

    @property
    def leases(self) -> list[Lease]:
        """The lease of every shard that is taken."""
        return [owned.lease for owned in self._owned.values()]

    def renew(self) -> None:
        """Renew every lease.

        Raises:
            LeaseLostError: another process took a shard over.
        """
        for lease in self.leases:
            self.services.leases.extend(lease)

    def give_back(self, shard: int) -> None:
        """Give a shard back; does nothing if it was not taken."""
        owned = self._owned.pop(shard, None)
        if owned and shard in self._sending:
            self._sending.remove(shard)
            owned.publisher.close()
        if takeover := self._takeovers.pop(shard, None):
            takeover.release()

    def give_all_back(self) -> None:
        """Give every shard back."""
        for shard in list(self._takeovers):
            self.give_back(shard)


@contextmanager
def maintain_shards(settings: RelaySettings, engine: Engine) -> Iterator[ShardMaintenance]:
    """Connect to the services, and give every shard back at the end of the block.

    Raises:
        RelayError, OutboxError: a service is unavailable, or the settings do not match the outbox.
    """
    lock = ProcessLock()
    try:
        leases = Leases(engine, lock.owner_id, LEASE_SECONDS, paused_too=True)
        services = connect_services(
            settings,
            engine,
            leases,
            Health(),
            RelayMetrics(CollectorRegistry()),
            encoder=lambda _: Encoder(0),  # nothing is encoded, so the schema registry need not be up
        )
        maintenance = ShardMaintenance(settings, services, settings.relay_lease_seconds + HANDOVER_TIMEOUT_SECONDS)
        try:
            yield maintenance
        finally:
            maintenance.give_all_back()
    finally:
        lock.close()
