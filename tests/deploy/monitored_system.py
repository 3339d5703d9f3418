"""The product under constant traffic, with a real Prometheus that scrapes its processes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import requests

from testkit.background import BackgroundTask
from testkit.deployment import Deployment
from testkit.ports import free_port
from testkit.relay_process import RelayProcess
from testkit.services.prometheus import Prometheus
from testkit.simulator.server import Simulator
from testkit.waiting import wait_until
from testkit.web_process import SECRET, WebProcess
from tests.deploy.scaled_rules import scaled_rules

PAUSE_SECONDS = 0.1
"""Between two interactions."""


class Sender(BackgroundTask):
    """Posts one interaction after the other within its block, and does not repeat what is refused.

    Attributes:
        secret: what it shows.
        body: sent instead of a valid one.
        is_silent: whether nothing is sent.
    """

    def __init__(self, web: WebProcess) -> None:
        super().__init__()
        self.web, self.secret = web, SECRET
        self.body: Any = None
        self.is_silent = False
        self._turn = threading.Lock()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Send nothing during the block."""
        with self._turn:
            yield

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE_SECONDS):
            if self.is_silent:
                continue
            number += 1
            body = self.body or {"id": f"call-{number}", "channel": "voice"}
            with self._turn, suppress(requests.RequestException):
                self.web.post(body, secret=self.secret)


class MonitoredSystem:
    """Web, relay, Prometheus, the simulator of CXone and the scoring endpoint, and traffic within its block.

    Args:
        deployment: its relays use inference and enrichment.
        folder: for Prometheus.
    """

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment, self.simulator = deployment, Simulator()
        simulated = {**self.simulator.inference, **self.simulator.enrichment}
        self.environ = {**deployment.environ, **simulated, "CXONE_ENRICH_RATE": "33", "OUTBOX_RETENTION": "7d"}
        self.prometheus = Prometheus(folder / "prometheus", scaled_rules()).start()
        self.web = deployment.web()
        self.relay = self._new_relay()
        self._verification: RelayProcess | None = None
        self._others: dict[str, int] = {}
        self.sender = Sender(self.web)
        self._scrape()

    def __enter__(self) -> Self:
        self.sender.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all but web and relay, which are the deployment's."""
        self.sender.__exit__()
        self.prometheus.stop()
        self.simulator.close()

    def restart_relay(self, **environ: str) -> None:
        """Start a relay, with further settings, in the place of the one that was stopped."""
        self.relay = self._new_relay(**environ)
        self._scrape()

    def restart_web(self) -> None:
        """Start web in the place of the one that was stopped."""
        self.sender.web = self.web = self.deployment.web()
        self._scrape()

    def start_verification(self) -> None:
        """Start a verification every two seconds, unless there is one, and wait until it has succeeded."""
        if self._verification is None:
            port = str(free_port())
            entry = ("relay", "verify", "--watch", "2", "--metrics-port", port)
            log = self.deployment.folder / "verification.log"
            self._verification = RelayProcess(self.environ, log, entry=entry)
            self.deployment.relays.append(self._verification)  # which ends it
            self.scrape_also("cxone-outbox-verify", int(port))
        query = "time() - outbox_verified_until_timestamp_seconds < 10"
        wait_until(lambda: self.prometheus.query(query), "a verification has succeeded")

    def end_verification(self) -> None:
        """Kill the verification; Prometheus goes on scraping it."""
        assert self._verification
        self._verification.kill()

    def forget_verification(self) -> None:
        """Scrape the verification that has ended no more."""
        self._verification = None
        del self._others["cxone-outbox-verify"]
        self._scrape()

    def scrape_also(self, job: str, port: int) -> None:
        """Scrape a further process."""
        self._others[job] = port
        self._scrape()

    def _new_relay(self, **environ: str) -> RelayProcess:
        return self.deployment.relay(**{**self.environ, **environ})  # type: ignore[arg-type] # all are strings

    def _scrape(self) -> None:
        self.prometheus.scrape(
            {
                "cxone-outbox-web": [f"127.0.0.1:{self.web.port}"],
                "cxone-outbox-relay": [f"127.0.0.1:{self.relay.metrics_port}"],
                **{job: [f"127.0.0.1:{port}"] for job, port in self._others.items()},
            }
        )
