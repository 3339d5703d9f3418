"""A relay built from the product's own classes, on an in-memory broker, that a test runs step by step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from outbox.db.engine import AUTOCOMMIT, READ_ONLY
from outbox.leases import Leases
from outbox.models import Identity, PendingRow
from outbox.notifications import Listener
from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.errors import RowsAtFaultError
from relay.health import Health
from relay.kafka.encoder import Encoder
from relay.kafka.record import Record
from relay.kafka.shard_clients import ShardClients
from relay.metrics import RelayMetrics
from relay.process.maintenance import ShardMaintenance
from relay.shard.fair_semaphore import FairSemaphore
from relay.shard.services import ShardServices
from relay.shard.worker import ShardWorker
from tests.model import clients
from tests.model.broker import Broker
from tests.model.clients import LINK, AdminClient, Fault, Link
from tests.model.stepping import SteppedEvent, SteppedThread

TOPIC, PROGRESS_TOPIC, PREFIX = "interactions", "interactions-progress", "p-"
LEASE_SECONDS = 600.0
"""By the database's real clock: long enough that a lease expires only when the test lets it."""
UNENCODABLE = "unencodable"
"""A channel whose rows the encoder refuses while ``refuses`` is set."""
REBALANCE_SECONDS = 1.0
_numbers = count(1)


class RefusingEncoder(Encoder):
    """The relay's encoder, which refuses rows while ``refuses`` is set."""

    def __init__(self) -> None:
        super().__init__(schema_id=1)
        self.refuses = True

    def records(self, rows: Sequence[PendingRow]) -> list[Record]:
        """Encode the rows, or refuse those of the ``UNENCODABLE`` channel."""
        refused = [row.ref for row in rows if self.refuses and row.channel == UNENCODABLE]
        if refused:
            raise RowsAtFaultError(dict.fromkeys(refused, "refused"))
        return super().records(rows)


class CommitFault:
    """Loses the request or the answer of an engine's next commit, or of a statement that commits itself."""

    def __init__(self, engine: Engine) -> None:
        self.next: Fault | None = None
        self._listeners: dict[str, Callable[..., None]] = {
            "commit": self._at_commit,
            "before_cursor_execute": self._before_statement,
            "after_cursor_execute": self._after_statement,
        }
        self._engine = engine
        for name, listener in self._listeners.items():
            event.listen(engine, name, listener)

    def remove(self) -> None:
        """Leave the engine as it was."""
        for name, listener in self._listeners.items():
            event.remove(self._engine, name, listener)

    def _at_commit(self, connection: Connection) -> None:
        if self.next is None or connection.get_execution_options().items() >= READ_ONLY.items():
            return
        if self.next is Fault.ANSWER_LOST:
            raw: Any = connection.connection.dbapi_connection
            raw.commit()
        self._fail()

    def _before_statement(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self.next is Fault.REQUEST_LOST and _commits(connection, statement):
            self._fail()

    def _after_statement(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self.next is Fault.ANSWER_LOST and _commits(connection, statement):
            self._fail()

    def _fail(self) -> None:
        fault, self.next = self.next, None
        raise OperationalError("COMMIT", {}, Exception(fault))


def _commits(connection: Connection, statement: str) -> bool:
    """Whether a statement that writes is a transaction of its own."""
    options = connection.get_execution_options()
    postgresql = connection.dialect.name == "postgresql"
    return postgresql and options.items() >= AUTOCOMMIT.items() and "INSERT INTO" in statement


class SimulatedRelay:
    """A relay on an engine of its own: one process at a time, which can be killed and started again.

    Args:
        engine: of its own.
        broker: that it sends to.
        dead: owners that are known to be dead; killed processes are added.
        batch_size: of its settings.
        block_behind_parked: of its settings.
    """

    def __init__(
        self, engine: Engine, broker: Broker, dead: set[str], batch_size: int, *, block_behind_parked: bool
    ) -> None:
        self._engine, self._broker, self._dead = engine, broker, dead
        self._batch_size, self._block_behind_parked = batch_size, block_behind_parked
        self.encoder = RefusingEncoder()
        self.database = CommitFault(engine)
        self.process: SteppedThread | None = None
        self.owner = ""
        self.health = Health()
        self.link = Link(broker)
        self.enrich: Callable[[list[PendingRow]], list[PendingRow]] = list

    @property
    def runs(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self.process is not None and not self.process.ended

    def start(self) -> None:
        """Start a new process, with a new owner id."""
        self.owner = f"relay-{next(_numbers)}"
        self.health = Health()
        self.stop = SteppedEvent(self._stop_at)
        self.link = Link(self._broker, self._stop_at)
        worker, stop = ShardWorker(0, self.services(), self.stop), self.stop
        worker.wake = SteppedEvent(self._stop_at)

        def work() -> None:
            while not stop.is_set():
                worker.run()  # ends when another relay owns the shard
                stop.wait(REBALANCE_SECONDS)

        self.process = SteppedThread(work)

    def _stop_at(self, step: str) -> None:
        if self.process is not None:
            self.process.stop_at(step)

    def advance(self) -> str:
        """Take one step; returns the step that it stopped at."""
        if self.process is None:
            return "ended"
        self.process.advance()
        return self.process.stopped_at

    def kill(self) -> None:
        """Kill the process, as ``kill -9`` does."""
        if self.process is not None:
            self.process.kill()
            self.process = None
            self._dead.add(self.owner)

    def maintenance(self, interrupted: str | None) -> ShardMaintenance:
        """An operator's command on this engine.

        Args:
            interrupted: the step at which it is interrupted; None if it is not.
        """

        def step(name: str, _shard: int) -> None:
            if name == interrupted:
                raise InterruptedError(name)

        leases = Leases(self._engine, f"operator-{next(_numbers)}", LEASE_SECONDS, paused_too=True)
        clients = self._clients(Link(self._broker))
        services = replace(self.services(), leases=leases, clients=clients, step=step, clock=monotonic)
        settings: Any = None  # only read to find lost rows in topics
        return ShardMaintenance(settings, services, 0)

    def clear_faults(self) -> None:
        """Cancel every fault that has not happened yet."""
        self.database.next = None
        if self.runs:
            self.link.faults.clear()

    def close(self) -> None:
        """Kill the process, and leave the engine as it was."""
        self.kill()
        self.database.remove()

    def services(self) -> ShardServices:
        """The services of a shard worker."""
        store = Store(self._engine)
        known = store.identity()
        bound = Identity(known.outbox_id, known.shards, TOPIC, PROGRESS_TOPIC, PREFIX, "cluster")
        leases = Leases(self._engine, self.owner, LEASE_SECONDS)

        def dead_owner(shard: int) -> str | None:
            owner = leases.owners()[shard]
            return owner if owner in self._dead else None

        return ShardServices(
            store=store,
            leases=leases,
            encoder=self.encoder,
            clients=self._clients(self.link),
            check_identity=lambda: store.bind_identity(bound),
            dead_owner=dead_owner,
            batch_size=self._batch_size,
            block_behind_parked=self._block_behind_parked,
            inference=True,
            listener=Listener(self._engine),
            health=self.health,
            metrics=RelayMetrics(CollectorRegistry()),
            drain_signal=DrainSignal(),
            send_slots=FairSemaphore(),
            enrich=self.enrich,
            step=lambda name, _shard: self._stop_at(name),
            clock=self._clock,
        )

    def _clients(self, link: Link) -> ShardClients:
        config: dict[str, object] = {LINK: link}
        make_admin: Any = AdminClient
        outbox_id = Store(self._engine).identity().outbox_id
        new_producer: Any = clients.Producer
        new_consumer: Any = clients.Consumer
        return ShardClients(
            outbox_id,
            TOPIC,
            PROGRESS_TOPIC,
            PREFIX,
            lambda: config,
            lambda: config,
            make_admin,
            new_producer,
            new_consumer,
            self._clock,
        )

    def _clock(self) -> float:
        return self._broker.now
