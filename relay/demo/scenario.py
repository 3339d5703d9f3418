"""The demo's scenario: post interactions, kill the relay meanwhile, and count what arrived in Kafka."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from outbox.db.engine import create_outbox_engine
from outbox.store import Store
from relay.demo.clients import ConsumedRecord, post_interactions, read_topic
from relay.demo.processes import DemoError, DemoProcesses

DRAIN_TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.05
KILLS = 3


@dataclass(frozen=True)
class DemoResult:
    """What the demo counted."""

    posted: int
    accepted: frozenset[int]
    """Outbox ids of the 202 responses."""
    kills: int
    records: tuple[ConsumedRecord, ...]
    """The topic, as a ``read_committed`` consumer reads it."""
    scored: int
    """Inference calls that were answered."""

    @property
    def duplicates(self) -> int:
        """Records beyond the first one of each row."""
        return len(self.records) - len(self._ids)

    @property
    def lost(self) -> int:
        """Accepted interactions that are not in the topic."""
        return len(self.accepted - self._ids)

    @property
    def unexpected(self) -> int:
        """Rows in the topic that were never accepted."""
        return len(self._ids - self.accepted)

    @property
    def exactly_once(self) -> bool:
        """Whether each accepted interaction is in the topic exactly once."""
        return bool(self.accepted) and not (self.duplicates or self.lost or self.unexpected)

    @property
    def _ids(self) -> frozenset[int]:
        return frozenset(record.outbox_id for record in self.records)


def run_scenario(
    processes: DemoProcesses,
    count: int,
    report_progress: Callable[[int, int], None],
    report_kill: Callable[[int], None],
) -> DemoResult:
    """Run the scenario until every accepted interaction is sent.

    Args:
        processes: Kafka and web are started; the relay is not.
        count: how many interactions to post.
        report_progress: called with the number of accepted and of sent interactions.
        report_kill: called with the number of kills after each one.

    Raises:
        DemoError: the rows are not sent in time, or the relay has stopped by itself.
    """
    accepted: list[int] = []
    sender = threading.Thread(target=post_interactions, args=(processes, count, accepted.append), daemon=True)
    killer = _RelayKiller(processes, report_kill)
    with _open_store(processes) as store:
        sender.start()
        deadline = time.monotonic() + DRAIN_TIMEOUT_SECONDS
        while True:
            posting = sender.is_alive()
            status = store.status()
            pending = sum(shard.pending for shard in status)
            sent = len(set(accepted)) - pending
            report_progress(len(accepted), sent)
            if not posting and not pending and killer.kills and not processes.relay_was_killed():
                break
            killer.advance(sent / count)
            if processes.relay_stopped() or time.monotonic() > deadline:
                raise _not_sent(processes, [shard.condition for shard in status if shard.condition])
            time.sleep(POLL_SECONDS)
    _wait_for_calls(processes, len(set(accepted)))
    records = tuple(read_topic(processes.client_config, processes.topic))
    return DemoResult(count, frozenset(accepted), killer.kills, records, len(processes.stubs.scored))


@contextmanager
def _open_store(processes: DemoProcesses) -> Iterator[Store]:
    engine = create_outbox_engine(processes.environ["DATABASE_URL"])
    try:
        yield Store(engine)
    finally:
        engine.dispose()


def _not_sent(processes: DemoProcesses, conditions: Sequence[str]) -> DemoError:
    reasons = "; ".join(conditions) or "the relay has stopped"
    return DemoError(f"the rows are not sent: {reasons}; the relay's log is {processes.log_of('relay')}")


def _wait_for_calls(processes: DemoProcesses, expected: int) -> None:
    deadline = time.monotonic() + DRAIN_TIMEOUT_SECONDS
    while len(processes.stubs.scored) < expected and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


class _RelayKiller:
    """Starts the relay, kills it ``KILLS`` times, and starts it again after each kill.

    On the mock cluster, which does not hide the records of an open transaction, the relay kills itself right after a
    commit. On a real cluster it is killed at random moments.
    """

    def __init__(self, processes: DemoProcesses, report_kill: Callable[[int], None]) -> None:
        self.kills = 0
        self._processes, self._report_kill = processes, report_kill
        self._random = random.Random()  # noqa: S311 - moments, not secrets
        self._start()

    def advance(self, sent_share: float) -> None:
        """Kill the relay once its share of the rows is sent, and replace a killed one.

        Args:
            sent_share: part of all rows that is sent, 0 to 1.
        """
        if not self._processes.mock and self.kills < KILLS and sent_share > self._kill_share:
            self._processes.kill_relay()
        if self._processes.relay_was_killed():
            self.kills += 1
            self._report_kill(self.kills)
            self._start()

    def _start(self) -> None:
        self._kill_share = (self.kills + self._random.uniform(0.1, 0.9)) / (KILLS + 1)
        kills_itself = self._processes.mock and self.kills < KILLS
        self._processes.start_relay(kill_at="committed" if kills_itself else None)
