"""The processes of the demo: cluster, web, relay, each started, killed and ended here."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from relay.demo.standins import StandIns

ROOT = Path(__file__).parents[2]
PATH = "/webhook/cxone-data-action"
READY_SECONDS = 30.0


class StageError(Exception):
    """A process of the demo did not come up; the message names its log."""


class Stage:
    """One demo's outbox, topics and processes.

    Args:
        kafka: address of a real cluster, or None for the mock.
    """

    def __init__(self, kafka: str | None) -> None:
        self.mock = kafka is None
        self.folder = Path(tempfile.mkdtemp(prefix="outbox-demo-"))
        self.secret = secrets.token_urlsafe(18).replace("=", "")
        self.port = _free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.standins = StandIns()
        self._processes: list[subprocess.Popen[bytes]] = []
        run = secrets.token_hex(3)
        self.topic = f"cxone-interactions-ml-demo-{run}"
        progress_topic = f"{self.topic}-progress"
        self.bootstrap_servers = kafka or self._start_cluster(self.topic, progress_topic)
        self.database = self.folder / "outbox.db"
        self.environ = {
            **os.environ,
            "DATABASE_URL": f"sqlite:///{self.database}",
            "RELAY_SHARDS": "1",
            "CXONE_WEBHOOK_SECRETS": f"demo={self.secret}",
            "WEB_HOST": "127.0.0.1",
            "PORT": str(self.port),
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_PROGRESS_TOPIC": progress_topic,
            "KAFKA_TRANSACTIONAL_ID_PREFIX": f"cxone-demo-{run}-",
            "INFERENCE_URL": f"{self.standins.base}/score",
            "RELAY_BATCH_SIZE": "250",
            "RELAY_METRICS_PORT": "0",
            "LOG_FORMAT": "json",
        }
        for name in (
            "CXONE_WEBHOOK_SECRET",
            "CXONE_WEBHOOK_SECRETS_FILE",
            "DATABASE_URL_FILE",
            "PROMETHEUS_MULTIPROC_DIR",
        ):
            self.environ.pop(name, None)
        self.environ.setdefault("SCHEMA_REGISTRY_URL", f"{self.standins.base}/registry")
        self.relay: subprocess.Popen[bytes] | None = None

    def start_web(self) -> None:
        """Migrate, then serve the webhook with gunicorn.

        Raises:
            StageError: it does not answer.
        """
        migrated = subprocess.run(
            [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "head"],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if migrated.returncode:
            raise StageError(f"the migration failed:\n{migrated.stderr[-1000:]}")
        app = "app.factory:create_app_from_environ()"
        self._spawn("web", [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", app])
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready():
            if time.monotonic() > deadline:
                raise StageError(f"the web process does not answer: see {self.folder / 'web.log'}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.base}/readyz", timeout=2).ok
        except requests.RequestException:
            return False

    def start_relay(self, kill_at: str | None = None, occurrence: int = 1) -> None:
        """Start the relay; with ``kill_at`` it kills itself (-9) at that step."""
        module = ["relay.demo.fragile", kill_at, str(occurrence)] if kill_at else ["relay", "run"]
        self.relay = self._spawn("relay", [sys.executable, "-m", *module])

    def kill_relay(self) -> None:
        """Kill -9."""
        if self.relay is not None:
            self.relay.kill()
            self.relay.wait()

    def relay_was_killed(self) -> bool:
        """Whether the relay has ended by kill -9."""
        return self.relay is not None and self.relay.poll() == -signal.SIGKILL

    def relay_gave_up(self) -> bool:
        """Whether the relay has ended in another way than being killed: something is wrong."""
        return self.relay is not None and self.relay.poll() not in (None, -signal.SIGKILL)

    def close(self) -> None:
        """End every process of the demo."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.standins.close()

    def _start_cluster(self, *topics: str) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay.demo.cluster", *topics],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._processes.append(process)
        address = process.stdout.readline().decode().strip() if process.stdout else ""
        if not address:
            raise StageError("the mock cluster does not start")
        return address

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                # A session of its own: Ctrl-C reaches the demo, which ends them in order.
                command, cwd=ROOT, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip
        self._processes.append(process)
        return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
