"""The product whose processes are killed, under load."""

import json
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from time import time
from typing import NamedTuple

import psutil
import requests

from outbox.models import body_digest
from testkit.deployment import Deployment
from testkit.inference_endpoint import InferenceEndpoint
from testkit.load import AcceptedInteraction, LoadGenerator
from testkit.relay_process import RelayProcess
from testkit.topic import alter_topic
from testkit.traps import FOLDER, Traps
from testkit.waiting import wait_until
from testkit.web_process import WebProcess
from tests.faults.nemesis import pause
from tests.faults.outcome import InjectedFault
from tests.faults.system import SystemUnderTest

RELAYS, SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS = 3, 4, 5, 0.1
BATCH_ROWS, MAX_BATCH_BYTES = 20, 4000
"""A batch of ordinary rows is smaller than the topic's limit, a record of a refused row is larger."""
KILL_SECONDS = 120.0
"""How long a process may take to reach a step."""
PAUSE_SECONDS = 0.5
"""Longest pause between two kills, and between a kill and the restart, unless that is at once."""


class Kill(NamedTuple):
    """A kill (-9)."""

    name: str
    """Its row in the table."""
    inject: Callable[["KilledSystem"], None]
    """Kills, and restarts what was killed."""


class KilledSystem(SystemUnderTest):
    """Web, relays, load and consumer of one deployment, traps for their processes, and a log of the kills.

    Args:
        deployment: the outbox and its topics.
        rng: decides which process is killed, and when.
    """

    def __init__(self, deployment: Deployment, rng: Random) -> None:
        self.rng = rng
        self.kills: list[InjectedFault] = []
        """The kills so far, each with the time at which everything had been restarted."""
        self.refused: list[AcceptedInteraction] = []
        """Rows that Kafka must refuse and the relay park."""
        self._inference = InferenceEndpoint()
        self._inference.start()
        folder = deployment.folder / f"traps-{deployment.topic}"
        folder.mkdir()
        self.traps = Traps(folder)
        environ = {
            FOLDER: str(folder),
            "RELAY_BATCH_SIZE": str(BATCH_ROWS),
            "INFERENCE_URL": self._inference.url,
            "WEB_CONCURRENCY": "2",
        }
        deployment.environ.update(environ)
        super().__init__(deployment, (), environ, RELAYS)
        alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", str(MAX_BATCH_BYTES))
        self.load = LoadGenerator(lambda: self.web, SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS)

    # Processes -------------------------------------------------------------------------------------

    def start_web(self) -> None:
        """Start a web process that replaces the current one."""
        deployment = self.deployment
        environ = {"DATABASE_URL": deployment.url, **self._environ}
        log = deployment.folder / f"web-{deployment.topic}.log"
        deployment.webs.append(WebProcess(environ, log, "testkit.trapped_webhook:create_app()", forked=True))

    def start_relay(self, index: int) -> None:
        """Start a relay that replaces the one at this index."""
        deployment = self.deployment
        log = deployment.folder / f"relay-{deployment.topic}-{len(deployment.relays)}.log"
        relay = RelayProcess(
            {**deployment.environ, **self._environ}, log, entry=("testkit.trapped_relay",), forked=True
        )
        deployment.relays.append(relay)
        self.relays[index : index + 1] = [relay]

    def running_relay(self) -> RelayProcess:
        """Return one of the relays that run."""
        return self.rng.choice([relay for relay in self.relays if relay.running()])

    def owner(self) -> RelayProcess:
        """Return a running relay that owns a shard, any one while none does."""
        owners = [status.owner.split(":")[1] for status in self.deployment.store.status() if status.owner]
        owning = [relay for relay in self.relays if str(relay.pid) in owners and relay.running()]
        return self.rng.choice(owning) if owning else self.running_relay()

    def kill_worker(self) -> None:
        """Kill one of the web's workers."""
        master = psutil.Process(self.web.process.pid)

        def kill_one() -> bool:
            for worker in self.rng.sample(workers := master.children(), len(workers)):
                with suppress(psutil.NoSuchProcess):  # it has died since
                    if worker.status() != psutil.STATUS_ZOMBIE:
                        worker.kill()
                        return True
            return False

        wait_until(kill_one, "the web has a worker to kill")

    def restart_relays(self) -> None:
        """Start a new relay in place of each that has died, at once or after a short pause."""
        pause(self.rng.choice([0, self.rng.uniform(0, PAUSE_SECONDS)]))
        for index, relay in enumerate(self.relays):
            if not relay.running():
                assert relay.wait() == -signal.SIGKILL, f"a relay ended by itself: {relay.log}"
                self.start_relay(index)

    def restart_web(self) -> None:
        """Start a new web in place of the one that has died, at once or after a short pause."""
        pause(self.rng.choice([0, self.rng.uniform(0, PAUSE_SECONDS)]))
        self.start_web()

    # Kills -----------------------------------------------------------------------------------------

    def kill(self, kill: "Kill") -> None:
        """Kill one process, or several at the same time, and restart them."""
        began = time()
        kill.inject(self)
        self.kills.append(InjectedFault(kill.name, began, time()))

    def wait_for_death_at(self, step: str) -> None:
        """Wait until a process has died in the trap at this step."""
        victim = wait_until(lambda: self.traps.victim(step), f"a process reaches the step {step}", KILL_SECONDS)
        wait_until(lambda: not psutil.pid_exists(victim), f"process {victim} has died at the step {step}")

    def post_refused(self) -> None:
        """Post an interaction whose record is larger than the topic allows."""
        fields = {
            "id": self._text(256),
            "channel": "voice",
            "customer": {"email": self._text(320)},
            "agent": {"id": self._text(256)},
        }
        body = json.dumps(fields).encode()

        def accepted() -> bool:
            sent_at = time()
            with suppress(requests.RequestException):
                answer = self.web.post(body)
                if answer.status_code == 202:
                    outbox_id = answer.json()["outboxId"]
                    self.refused.append(AcceptedInteraction(sent_at, time(), outbox_id, body_digest(body)))
                    return True
            return False

        wait_until(accepted, "the interaction is accepted")

    def _text(self, length: int) -> str:
        """Return characters of four bytes each."""
        return "".join(chr(self.rng.randrange(0x20000, 0x2A6DF)) for _ in range(length))

    def recovered(self) -> Sequence[InjectedFault]:
        """Return the kills, each with the time when every partition had got a record after it; waits for the last."""
        last, arrivals = self.kills[-1].recovered, self.consumer.arrivals
        wait_until(
            lambda: all(times[-1] > last for times in arrivals.values()),
            "a record arrives in every partition after the last kill",
            KILL_SECONDS,
        )
        return [
            kill._replace(recovered=max(next(at for at in times if at > kill.recovered) for times in arrivals.values()))
            for kill in self.kills
        ]

    def close(self) -> None:
        """Stop load, consumer, endpoint and every process."""
        self.load.stop()
        super().close()
        self._inference.stop()
