"""Secrets are replaced as docs/rotate-secrets.md describes: a sender that never pauses meets no refusal."""

import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from testkit.background import BackgroundTask
from testkit.waiting import DEADLINE_SECONDS, wait_until
from testkit.web_fixtures import StartWeb
from testkit.web_process import SECRET, WebProcess

NEW_SECRET = "the-next-secret-of-the-tests"


class Sender(BackgroundTask):
    """Posts one interaction after the other, each on a connection of its own.

    Attributes:
        secret: what it sends.
        statuses: of the responses, in order; 0: none.
    """

    def __init__(self, web: WebProcess) -> None:
        self.secret = SECRET
        self.statuses: list[int] = []
        super().__init__()
        self._web = web

    def _run(self) -> None:
        while not self._stop.is_set():
            status = 0
            with suppress(requests.RequestException):
                status = self._web.post({"id": uuid.uuid4().hex, "channel": "voice"}, self.secret).status_code
            self.statuses.append(status)

    def wait_for(self, count: int) -> None:
        """Wait until so many further responses have come."""
        target = len(self.statuses) + count
        wait_until(lambda: len(self.statuses) >= target, f"{count} responses")


class Generations:
    """The masters of one gunicorn: each starts the next one (SIGUSR2), which takes the listening socket over."""

    def __init__(self, web: WebProcess) -> None:
        self._web = web
        self._masters = [psutil.Process(web.process.pid)]

    def replace(self) -> None:
        """Start the next generation, and end the present one once the next is ready."""
        old = self._masters[-1]
        new = wait_until(lambda: self._next(old), "the next gunicorn has workers", 2 * DEADLINE_SECONDS)
        self._masters.append(new)
        # A request waits only one second for the first check of a new process.
        wait_until(lambda: requests.get(f"{self._web.base}/readyz", timeout=30).ok, "the next gunicorn is ready")
        old.send_signal(signal.SIGTERM)
        wait_until(lambda: not _is_running(old), "the old one has ended")

    def start_next(self) -> None:
        """Start the next generation."""
        self._masters[-1].send_signal(signal.SIGUSR2)

    def _next(self, old: psutil.Process) -> psutil.Process | None:
        masters = [child for child in old.children() if child.children()]
        if not masters:
            self.start_next()  # ignored while a next one starts, or the one before is still there
        return next(iter(masters), None)

    def stop(self) -> None:
        """Kill every process that is left."""
        for master in self._masters:
            with suppress(psutil.NoSuchProcess):
                for process in (*master.children(recursive=True), master):
                    process.kill()


def _is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.fixture
def secrets_file(tmp_path: Path) -> Path:
    """The file of webhook secrets, with one."""
    path = tmp_path / "webhook_secrets"
    path.write_text(f"cxone={SECRET}")
    return path


@pytest.fixture
def web(new_sqlite: Callable[[], str], start_web: StartWeb, secrets_file: Path) -> WebProcess:
    """A web process that takes its secrets from the file."""
    return start_web(new_sqlite(), CXONE_WEBHOOK_SECRETS="", CXONE_WEBHOOK_SECRETS_FILE=str(secrets_file))


@pytest.fixture
def generations(web: WebProcess) -> Iterator[Generations]:
    """The web process's generations, all killed after the test."""
    found = Generations(web)
    yield found
    found.stop()


def test_a_webhook_secret_is_replaced_without_a_refusal(
    web: WebProcess, generations: Generations, secrets_file: Path
) -> None:
    """The new secret is added beside the old one, the sender changes to it, the old one is removed."""
    with Sender(web) as sender:
        sender.wait_for(5)
        secrets_file.write_text(f"cxone={SECRET},cxone-2={NEW_SECRET}")
        generations.replace()
        sender.wait_for(5)
        sender.secret = NEW_SECRET
        sender.wait_for(5)
        secrets_file.write_text(f"cxone-2={NEW_SECRET}")
        generations.replace()
        sender.wait_for(5)
        assert set(sender.statuses) == {202}
    assert web.post({"id": 1, "channel": "voice"}, SECRET).status_code == 401
    assert web.metric('outbox_webhook_requests_total{outcome="accepted",secret="cxone-2"}') >= 5


def test_a_wrong_secret_does_not_replace_what_works(
    web: WebProcess, generations: Generations, secrets_file: Path
) -> None:
    """The next generation names what is wrong and ends; the present one goes on."""
    secrets_file.write_text("cxone=short")
    with Sender(web) as sender:
        generations.start_next()
        wait_until(lambda: "expected at least" in web.log.read_text(), "the next gunicorn says what is wrong")
        sender.wait_for(5)
        assert set(sender.statuses) == {202}
