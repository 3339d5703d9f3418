"""Load on the webhook: senders that repeat a request until it is answered with 202, as CXone does."""

import json
import threading
from collections.abc import Callable
from time import time
from typing import NamedTuple

import requests

from outbox.models import body_digest
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

RETRY_SECONDS = 0.02
"""Pause after a request that is not answered: without it the senders take the CPU that a restart needs."""


class AcceptedInteraction(NamedTuple):
    """An interaction that was answered with 202. Times are in seconds since the epoch."""

    sent_at: float
    """When the request was begun."""
    at: float
    """When the answer arrived."""
    outbox_id: int
    key: bytes
    """Deduplication key of its row."""


class LoadGenerator:
    """Threads that post interactions until stopped. Each sends its own interactions, one request at a time.

    Args:
        web: returns the web process to post to; called before each request.
        senders: number of threads.
        interactions: number of interactions that each sender alternates between.
        pause_seconds: pause after each 202.
    """

    def __init__(
        self,
        web: Callable[[], WebProcess],
        senders: int = 6,
        interactions: int = 1,
        pause_seconds: float = 0.0,
    ) -> None:
        self._web, self._stop = web, threading.Event()
        self._interactions, self._pause_seconds = interactions, pause_seconds
        self.accepted: list[AcceptedInteraction] = []
        self._accepted_of = [0] * senders
        self._threads = [threading.Thread(target=self._send, args=(number,), daemon=True) for number in range(senders)]
        for thread in self._threads:
            thread.start()

    def _send(self, sender: int) -> None:
        number = 0
        while not self._stop.wait(self._pause_seconds):
            number += 1
            interaction = f"sender-{sender}-{number % self._interactions}"
            body = json.dumps({"id": interaction, "channel": "voice", "turn": number}).encode()
            while not self._stop.is_set():
                sent_at = time()
                try:
                    answer = self._web().post(body)
                except requests.RequestException:
                    self._stop.wait(RETRY_SECONDS)
                    continue
                if answer.status_code == 202:
                    outbox_id = answer.json()["outboxId"]
                    self.accepted.append(AcceptedInteraction(sent_at, time(), outbox_id, body_digest(body)))
                    self._accepted_of[sender] += 1
                    break

    def wait_for_accepted(self, count: int) -> None:
        """Wait until this many more interactions have been accepted."""
        wanted = len(self.accepted) + count
        wait_until(lambda: len(self.accepted) >= wanted, f"{count} more interactions are accepted")

    def wait_for_each_sender(self, count: int) -> None:
        """Wait until this many more interactions of each sender have been accepted.

        After two, whatever a sender waits for was posted after the call.
        """
        wanted = [accepted + count for accepted in self._accepted_of]
        wait_until(
            lambda: all(accepted >= least for accepted, least in zip(self._accepted_of, wanted, strict=True)),
            f"{count} more interactions of each sender are accepted",
        )

    def stop(self) -> list[int]:
        """Stop the senders and return the ids of all rows that were answered with 202."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return [each.outbox_id for each in self.accepted]
