"""One relay put together from the product's own parts, on a broker in memory, to be paced step by step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

import relay.shard.worker
from outbox.db.engine import READ_ONLY
from outbox.leases import Leases
from outbox.models import Identity, PendingRow
from outbox.notifications import Listener
from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.health import Health
from relay.kafka.consumer import CommittedReader
from relay.kafka.encoder import Encoder
from relay.kafka.producer import Publisher
from relay.kafka.progress import ProgressReader, StoredProgress, destination
from relay.kafka.record import Record
from relay.metrics import RelayMetrics
from relay.process.maintenance import ShardMaintenance
from relay.shard.fair_semaphore import FairSemaphore
from relay.shard.worker import ShardServices, ShardWorker
from tests.model import clients
from tests.model.broker import Broker
from tests.model.clients import LINK, AdminClient, Fate, Link
from tests.model.pacing import Paced, PacedEvent

TOPIC, PROGRESS_TOPIC = "interactions", "interactions-progress"
LEASE_SECONDS = 600.0
"""By the database's clock, which does not wait for us: no lease runs out unless the test says so."""
UNENCODABLE = "unencodable"
"""A channel that the encoder refuses while it is told to."""
LOOK_SECONDS = 1.0
_numbers = count(1)


class FickleEncoder(Encoder):
    """The relay's encoder, but for rows that it refuses while it is told to."""

    def __init__(self) -> None:
        super().__init__(schema_id=1)
        self.refuses = True

    def _record(self, row: PendingRow) -> Record:
        if self.refuses and row.channel == UNENCODABLE:
            raise ValueError
        return super()._record(row)


class DatabaseFault:
    """Loses the next commit's request or answer on one engine."""

    def __init__(self, engine: Engine) -> None:
        self.next: Fate | None = None
        event.listen(engine, "commit", self._at_commit)

    def _at_commit(self, connection: Connection) -> None:
        if self.next is None or connection.get_execution_options().items() >= READ_ONLY.items():
            return
        fate, self.next = self.next, None
        if fate is Fate.ANSWER_LOST:
            raw: Any = connection.connection.dbapi_connection
            raw.commit()
        raise OperationalError("COMMIT", {}, Exception(fate.name))


class Relay:
    """One relay's place: its engine, and the process that runs there, if one does.

    Args:
        engine: of its own.
        broker: that it sends to.
        dead: owners that are known to have died.
        batch_size, waiting: settings.
    """

    def __init__(self, engine: Engine, broker: Broker, dead: set[str], batch_size: int, *, waiting: bool) -> None:
        self._engine, self._broker, self._dead = engine, broker, dead
        self.encoder = FickleEncoder()
        self._batch_size, self._waiting = batch_size, waiting
        self.database = DatabaseFault(engine)
        self.process: Paced | None = None
        self.owner = ""
        self.health = Health()

    @property
    def runs(self) -> bool:
        """Whether a process is there, frozen or not."""
        return self.process is not None and not self.process.over

    def start(self) -> None:
        """A new process, with a new owner id, at the very beginning."""
        self.owner = f"relay-{next(_numbers)}"
        self.health = Health()
        self.stop = PacedEvent(self._reached)
        self.link = Link(self._broker, self._reached)
        worker, stop = ShardWorker(0, self._services()), self.stop
        worker.wake = PacedEvent(self._reached)

        def work() -> None:
            while not stop.is_set():
                worker.run()  # ends where another relay has the shard
                stop.wait(LOOK_SECONDS)

        self.process = Paced(work)

    def _reached(self, place: str) -> None:
        if self.process is not None:
            self.process.reached(place)

    def advance(self) -> str:
        """One step; where it stands then."""
        if self.process is None:
            return "over"
        self.process.advance()
        return self.process.at

    def kill(self) -> None:
        """Kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process = None
            self._dead.add(self.owner)

    def look_after(self, interrupted: str | None) -> ShardMaintenance:
        """What an operator's verb works with here, until it is interrupted at a step; None: it is not."""

        def step(name: str, _shard: int) -> None:
            if name == interrupted:
                raise InterruptedError(name)

        verb = Relay(self._engine, self._broker, self._dead, 1, waiting=self._waiting)
        verb.owner, verb.stop, verb.link = f"operator-{next(_numbers)}", PacedEvent(lambda _: None), Link(self._broker)
        verb.close()  # the engine is listened to once
        leases = Leases(self._engine, verb.owner, LEASE_SECONDS, paused_too=True)
        shard_services = replace(verb._services(), leases=leases, step=step)
        services: Any = SimpleNamespace(
            shard_services=lambda *_: shard_services, read_back=lambda _shard, _stop, below: verb.read_back(below)
        )
        return ShardMaintenance(services, 0)

    def mend(self) -> None:
        """No fault is pending any more."""
        self.database.next = None
        if self.runs:
            self.link.faults.clear()

    def close(self) -> None:
        """End the process, and leave the engine as it was found."""
        self.kill()
        event.remove(self._engine, "commit", self.database._at_commit)

    def read_back(self, below: int | None = None) -> StoredProgress | None:
        """The last progress record; with ``below``, the last one of a smaller sequence."""
        config: dict[str, Any] = {LINK: self.link}
        admin: Any = AdminClient(config)
        outbox_id = Store(self._engine).identity().outbox_id

        def open_reader(config: dict[str, Any]) -> CommittedReader:
            return CommittedReader(config, clients.Consumer, self._clock)  # type: ignore[arg-type]

        return ProgressReader(config, admin, PROGRESS_TOPIC, outbox_id, self.stop.is_set, open_reader).last(0, below)

    def _clock(self) -> float:
        return self._broker.now

    def _services(self) -> ShardServices:
        store = Store(self._engine)
        known = store.identity()
        bound = Identity(known.outbox_id, known.shards, TOPIC, PROGRESS_TOPIC, "p-", "cluster")
        config: dict[str, Any] = {LINK: self.link}
        progress = destination(PROGRESS_TOPIC, known.outbox_id, 0)

        leases = Leases(self._engine, self.owner, LEASE_SECONDS)

        def dead_owner(shard: int) -> str | None:
            owner = leases.owners()[shard]
            return owner if owner in self._dead else None

        def publisher(_shard: int) -> Publisher:
            producer: Any = clients.Producer
            return Publisher(config, "p-01", TOPIC, progress, self.stop.is_set, producer, self._clock)

        return ShardServices(
            store=store,
            leases=leases,
            encoder=self.encoder,
            outbox_id=known.outbox_id,
            check_identity=lambda: store.bind_identity(bound),
            complete=list,
            publisher=publisher,
            read_back=lambda _shard: self.read_back(),
            dead_owner=dead_owner,
            batch_size=self._batch_size,
            block_behind_parked=self._waiting,
            inference=True,
            listener=Listener(self._engine),
            stop=self.stop,
            health=self.health,
            metrics=RelayMetrics(CollectorRegistry()),
            drain_signal=DrainSignal(),
            send_slots=FairSemaphore(),
            step=lambda name, _shard: self._reached(name),
        )


class Clock:
    """The clock of the relay's modules: that of the broker in use."""

    def __init__(self) -> None:
        self.broker = Broker()

    def __call__(self) -> float:
        """Seconds."""
        return self.broker.now


@contextmanager
def clients_in_memory() -> Iterator[Clock]:
    """While it lasts, the relay's workers use the clock of the broker in memory."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay.shard.worker, "monotonic", clock)
        yield clock
