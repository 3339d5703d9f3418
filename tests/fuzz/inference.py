"""What the inference endpoint answers.

Whatever it is, a call ends in time with a decision that follows from the status alone, and no text quotes the answer.
At the end calls are answered by inputs first and properly afterwards: all are done, except those that were refused.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import monotonic

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.models import Lease
from outbox.states import CallState
from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.health import Health
from relay.http_client import MAX_BODY_BYTES, MAX_RETRY_AFTER_SECONDS, HttpClient, Outcome, classify
from relay.inference.policy import decide
from relay.inference.worker import InferenceWorker
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from relay.shard.services import ignore_steps
from relay.total_timeout import TICK_SECONDS
from testkit.outbox import call_states, record_ref
from testkit.rows import new_row
from testkit.waiting import wait_until
from tests.fuzz.answers import AnswerServer, Current, Request, json_answer, serve
from tests.fuzz.corpus import Input, fill_length
from tests.fuzz.log import CapturedLog
from tests.fuzz.outbox import new_outbox

CANARY, TOKEN = "canary-5f1d", "token-of-the-tests"
RESPONSE_SECONDS = 2.0
MAX_SECONDS = RESPONSE_SECONDS + 3 * TICK_SECONDS + 5
"""What a busy machine may add included."""
PROPER = json_answer(b'{"score": 0.5}')
MAX_CALLS = 60
OWN_ANSWER_SECONDS = 1.0
"""Answers whose ``Retry-After`` is longer are not used at the end: it is honoured."""


class InferenceAnswers:
    """The relay's HTTP client and inference worker.

    Args:
        folder: for the outbox.
        server: the endpoint.
        current: its answer.
        log: of this process.
    """

    def __init__(self, folder: Path, server: AnswerServer, current: Current, log: CapturedLog) -> None:
        self._folder, self._server, self._current, self._log = folder, server, current, log
        self._client = HttpClient(1, {"Authorization": f"Bearer {TOKEN}"}, RESPONSE_SECONDS)
        self._random = Random(1)
        self._used: dict[bytes, Outcome] = {}

    def check(self, given: Input) -> None:
        """Make a request."""
        self._current.given = given
        began = monotonic()
        result = self._client.request("POST", f"{self._server.base}/score", json={})
        assert monotonic() - began < MAX_SECONDS, f"took {monotonic() - began:.1f} s"
        assert CANARY not in (result.error or ""), result
        assert result.body is None or len(result.body) <= MAX_BODY_BYTES
        assert result.status is None or str(result.status).encode() in fill_length(given.data)
        assert result.retry_after_seconds is None or 0 <= result.retry_after_seconds <= MAX_RETRY_AFTER_SECONDS
        outcome, decision = classify(result), decide(result, 0, 20, self._random)
        assert (decision.state is CallState.DONE) == (outcome is Outcome.SUCCESS) == (result.error is None)
        assert (decision.state is CallState.PARKED) == (outcome is Outcome.REJECTED)
        assert 0 <= decision.wait_seconds <= MAX_RETRY_AFTER_SECONDS
        self._log.check()
        if len(self._used) < MAX_CALLS and (result.retry_after_seconds or 0) <= OWN_ANSWER_SECONDS:
            self._used[given.data] = outcome

    def finish(self) -> None:
        """Let a worker make a call for each of the first inputs."""
        with new_outbox(self._folder) as (engine, lease):
            _make_due(engine, lease, len(self._used))
            with _worker(engine, self._server, self._log) as thread:
                answers = dict(enumerate(self._used, start=1))
                self._server.answer = lambda request: answers.pop(_key(request), PROPER)
                wait_until(lambda: CallState.DUE not in call_states(engine).values(), "no call is due", 120)
                assert thread.is_alive()
            expected = {
                number: CallState.PARKED if outcome is Outcome.REJECTED else CallState.DONE
                for number, outcome in enumerate(self._used.values(), start=1)
            }
            assert call_states(engine) == expected


def _key(request: Request) -> int:
    return int(request.head.lower().partition(b"idempotency-key: ")[2].split(b"\r\n")[0])


def _make_due(engine: Engine, lease: Lease, count: int) -> None:
    store = Store(engine)
    store.record([new_row(f"i-{number}") for number in range(count)])
    store.mark_sent(lease, record_ref(1), [row.ref for row in store.pending(lease, 1_000)], inference=True)


@contextmanager
def _worker(engine: Engine, server: AnswerServer, log: CapturedLog) -> Iterator[threading.Thread]:
    settings = RelaySettings(
        kafka_bootstrap_servers="none",
        schema_registry_url="http://none",
        inference_url=f"{server.base}/score",
    )
    stop, health, metrics = threading.Event(), Health(), RelayMetrics(CollectorRegistry())
    worker = InferenceWorker(settings, engine, "fuzz", stop, health, metrics, DrainSignal(), ignore_steps)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    log.check()


@contextmanager
def open_inference(folder: Path) -> Iterator[InferenceAnswers]:
    """Start the endpoint."""
    current = Current()
    with serve(current) as server, CapturedLog((CANARY, TOKEN)) as log:
        yield InferenceAnswers(folder, server, current, log)
