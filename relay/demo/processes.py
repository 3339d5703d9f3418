"""The demo's processes: Kafka's mock cluster, web, relay and console."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from confluent_kafka.admin import AdminClient

from config.setting_names import KNOWN_NAMES
from config.settings import load
from relay.demo.ports import free_port
from relay.demo.stubs import Stubs
from relay.errors import RelayError
from relay.kafka.errors import LastError, translate_errors
from relay.settings import RelaySettings, kafka_client_config

ROOT = Path(__file__).parents[2]
CONSOLE_USER = "demo"
PATH = "/webhook/cxone-data-action"
READY_TIMEOUT_SECONDS = 30.0
KAFKA_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 25.0
SETTINGS = KNOWN_NAMES | {"DYNO", "PROMETHEUS_MULTIPROC_DIR", "WEB_CONCURRENCY", "WEB_THREADS"}
"""Variables that change what the product does."""
CONNECTION_SETTINGS = re.compile(
    r"(KAFKA|SCHEMA_REGISTRY)_(?!TOPIC|PROGRESS_TOPIC|TRANSACTIONAL_ID_PREFIX|REPLAY_TOPICS).*"
)
"""Settings that the demo takes from the environment with a real cluster: how to reach it and its registry."""


class DemoError(RelayError):
    """The demo failed; the message names the log to read."""


class DemoProcesses:
    """The outbox, topics and processes of one demo, with a temporary directory for logs and database.

    Args:
        kafka: bootstrap servers of a real cluster; None: start the mock cluster.
    """

    def __init__(self, kafka: str | None) -> None:
        self.mock = kafka is None
        self.folder = Path(tempfile.mkdtemp(prefix="outbox-demo-"))
        self.secret = secrets.token_urlsafe(18).replace("=", "")
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.console_url = f"http://127.0.0.1:{free_port()}"
        self.console_password = secrets.token_urlsafe(12)
        self.stubs = Stubs()
        self.bootstrap_servers = kafka or ""
        self.relay: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        run = secrets.token_hex(3)
        self.topic = f"cxone-interactions-ml-demo-{run}"
        self.database = self.folder / "outbox.db"
        self.environ = {
            **_inherited(os.environ, mock=self.mock),
            "DATABASE_URL": f"sqlite:///{self.database}",
            "RELAY_SHARDS": "1",  # a kill must not leave another shard's transaction open: the mock would show its rows
            "CXONE_WEBHOOK_SECRETS": f"demo={self.secret}",
            "WEB_HOST": "127.0.0.1",
            "PORT": str(self.port),
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_PROGRESS_TOPIC": f"{self.topic}-progress",
            "KAFKA_TRANSACTIONAL_ID_PREFIX": f"cxone-demo-{run}-",
            "INFERENCE_URL": f"{self.stubs.base}/score",
            "RELAY_BATCH_SIZE": "250",
            "RELAY_METRICS_PORT": "0",
            "LOG_FORMAT": "json",
        }
        self.environ.setdefault("SCHEMA_REGISTRY_URL", f"{self.stubs.base}/registry")

    @property
    def webhook_url(self) -> str:
        """Where interactions are posted."""
        return f"{self.base}{PATH}"

    @property
    def client_config(self) -> dict[str, Any]:
        """Configuration of a Kafka client."""
        return kafka_client_config(load(RelaySettings, self.environ))

    def start_kafka(self) -> None:
        """Start the mock cluster, or check that the real one responds.

        Raises:
            DemoError: it does not.
        """
        if self.mock:
            self.bootstrap_servers = self.environ["KAFKA_BOOTSTRAP_SERVERS"] = self._start_cluster()
            self.environ["KAFKA_CONFIG"] = '{"check.crcs":false}'  # the mock's markers of transactions have none
            return
        last_error = LastError()
        config: dict[str, Any] = {**self.client_config, "error_cb": last_error, "log_level": 0}
        with translate_errors(f"answer at {self.bootstrap_servers}", last_error, DemoError):
            AdminClient(config).list_topics(timeout=KAFKA_TIMEOUT_SECONDS)

    def start_web(self) -> None:
        """Create the outbox, then serve the webhook with gunicorn.

        Raises:
            DemoError: the web process does not become ready.
        """
        self._command("migrate")
        app = "app.factory:create_app_from_environ()"
        self._spawn("web", [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", app])
        self._wait_until_ready("web", self.base)

    def start_console(self) -> None:
        """Serve the console with gunicorn, for one user.

        Raises:
            DemoError: it does not become ready.
        """
        users = self.folder / "users"
        made = self._command("console-password", CONSOLE_USER, "custodian", typed=self.console_password)
        users.write_text(made.stdout)
        self.environ |= {
            "CONSOLE_AUTH": "file",
            "CONSOLE_USERS_FILE": str(users),
            "CONSOLE_SECRET_KEY": secrets.token_hex(32),
            "CONSOLE_HOST": "127.0.0.1",
            "CONSOLE_PORT": self.console_url.rpartition(":")[2],
        }
        app = "console.factory:create_app_from_environ()"
        self._spawn("console", [sys.executable, "-m", "gunicorn", "-c", "python:console.gunicorn_conf", app])
        self._wait_until_ready("console", self.console_url)

    def _wait_until_ready(self, name: str, base: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not _is_ready(base):
            if time.monotonic() > deadline:
                raise DemoError(f"the {name} process does not become ready; its log is {self.log_of(name)}")
            time.sleep(0.1)

    def _command(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of the relay.

        Raises:
            DemoError: it fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", "relay", *arguments],
            cwd=ROOT,
            env=self.environ,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"relay {arguments[0]} fails: {done.stderr.strip()[-1000:]}")
        return done

    def start_relay(self, kill_at: str | None = None) -> None:
        """Start the relay; with ``kill_at`` it kills itself (-9) when it first reaches that step."""
        module = ["relay.demo.crash", kill_at, "1"] if kill_at else ["relay", "run"]
        self.relay = self._spawn("relay", [sys.executable, "-m", *module])

    def kill_relay(self) -> None:
        """Kill the relay (-9)."""
        if self.relay is not None:
            self.relay.kill()
            self.relay.wait()

    def relay_was_killed(self) -> bool:
        """Whether the relay was killed (-9)."""
        return self.relay is not None and self.relay.poll() == -signal.SIGKILL

    def relay_stopped(self) -> bool:
        """Whether the relay has exited without being killed: something is wrong."""
        return self.relay is not None and self.relay.poll() not in (None, -signal.SIGKILL)

    def log_of(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.folder / f"{name}.log"

    def close(self, *, keep_logs: bool) -> None:
        """Stop every process and remove the temporary directory.

        Args:
            keep_logs: keep the directory if a process has written a log.
        """
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.stubs.close()
        if not (keep_logs and any(self.folder.glob("*.log"))):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start_cluster(self) -> str:
        topics = (self.topic, self.environ["KAFKA_PROGRESS_TOPIC"])
        command = [sys.executable, "-m", "relay.demo.mock_broker", *topics]
        process = self._spawn("cluster", command, stdout=subprocess.PIPE)
        address = process.stdout.readline().decode().strip() if process.stdout else ""
        if not address:
            raise DemoError(f"the mock cluster does not start; its log is {self.log_of('cluster')}")
        return address

    def _spawn(self, name: str, command: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        with self.log_of(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environ,
                stdout=stdout or log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the demo, which stops them in order
            )
        self._processes.append(process)
        return process


def _inherited(environ: Mapping[str, str], *, mock: bool) -> dict[str, str]:
    """Return the environment without the product's settings, except how to reach a real cluster."""
    return {
        **{
            name: value
            for name, value in environ.items()
            if name.removesuffix("_FILE") not in SETTINGS or (CONNECTION_SETTINGS.match(name) and not mock)
        },
        "NO_PROXY": ",".join(filter(None, (environ.get("NO_PROXY") or environ.get("no_proxy"), "127.0.0.1"))),
    }


def _is_ready(base: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy for this machine
            return session.get(f"{base}/readyz", timeout=2).ok
    except requests.RequestException:
        return False
