"""After the commit: call the inference endpoint for each sent row, at least once, out of the way of Kafka."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from random import Random
from time import monotonic, time
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
import structlog
from requests.adapters import HTTPAdapter
from sqlalchemy import Engine
from urllib3.exceptions import HTTPError

from outbox.calls import Calls
from outbox.errors import OutboxError
from outbox.rows import CallResult, InferenceCall
from outbox.states import CallState
from relay.backoff import Backoff
from relay.errors import MisconfiguredError
from relay.health import Health
from relay.metrics import RelayMetrics
from relay.owner import is_dead
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0
CLAIM_SECONDS = 45.0
"""Longer than a round of calls can take: connect, read, settle."""
IDLE_SECONDS = 0.2
RETRY_CAP_SECONDS = 300.0
RETRY_BASE_SECONDS = 1.0
ANSWER_BYTES = 65_536
RETRIED_CLIENT_ERRORS = frozenset({408, 425, 429})


class Answer(NamedTuple):
    """What came back: a status, or what went wrong instead."""

    status: int | None
    error: str | None = None
    retry_after_seconds: float | None = None


def reaction(answer: Answer, attempts: int, max_attempts: int, random: Random) -> tuple[CallState, float]:
    """What to do with a call after its latest answer: its state, and seconds to wait if it is due again.

    Args:
        answer: of the latest attempt.
        attempts: made so far, the latest included.
        max_attempts: beyond which the call is parked.
        random: source of the jitter.
    """
    status = answer.status
    if status is not None and 200 <= status < 300:
        return CallState.DONE, 0.0
    final = status is not None and 300 <= status < 500 and status not in RETRIED_CLIENT_ERRORS
    if final or attempts >= max_attempts:
        return CallState.PARKED, 0.0
    if answer.retry_after_seconds is not None:
        return CallState.DUE, min(answer.retry_after_seconds, RETRY_CAP_SECONDS)
    ceiling = min(RETRY_CAP_SECONDS, RETRY_BASE_SECONDS * 2.0 ** min(attempts - 1, 32))
    return CallState.DUE, random.uniform(0, ceiling)


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Seconds named by a ``Retry-After`` header, as a number or a date; None if absent or unreadable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value[:12])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


class InferenceWorker:
    """Calls the endpoint for rows that are due, ``INFERENCE_CONCURRENCY`` at a time.

    Raises:
        MisconfiguredError: the URL's host is not in ``INFERENCE_ALLOW_HOSTS``.
    """

    def __init__(
        self,
        settings: RelaySettings,
        engine: Engine,
        owner: str,
        stop: threading.Event,
        health: Health,
        metrics: RelayMetrics,
    ) -> None:
        self._url = settings.inference_url or ""
        host = urlsplit(self._url).hostname
        allowed = settings.inference_allow_hosts
        if allowed and host not in {name.strip() for name in allowed.split(",")}:
            raise MisconfiguredError(f"INFERENCE_URL names host {host}, which is not in INFERENCE_ALLOW_HOSTS")
        self._settings, self._stop, self._health, self._metrics = settings, stop, health, metrics
        self._calls = Calls(engine, owner)
        self._random = Random()  # noqa: S311 - jitter, not cryptography
        self._session = requests.Session()
        self._session.trust_env = False
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=settings.inference_concurrency)
        self._session.mount(self._url, adapter)
        if settings.inference_token:
            self._session.headers["Authorization"] = f"Bearer {settings.inference_token.get_secret_value()}"

    def run(self) -> None:
        """Claim, call, settle, until the stop. What is claimed and not settled comes back by itself."""
        backoff = Backoff(self._random)
        concurrency = self._settings.inference_concurrency
        released = False
        with ThreadPoolExecutor(concurrency, thread_name_prefix="inference") as pool:
            while not self._stop.is_set():
                try:
                    if not released:
                        self._calls.release_claims_of(is_dead)
                        released = True
                    calls = self._calls.claim(concurrency * 2, CLAIM_SECONDS)
                    self._calls.settle(list(pool.map(self._settled, calls)))
                except OutboxError as error:
                    self._health.degraded("inference", str(error))
                    self._stop.wait(backoff.failed())
                else:
                    backoff.succeeded()
                    if not calls:
                        self._stop.wait(IDLE_SECONDS)

    def _settled(self, call: InferenceCall) -> CallResult:
        if self._stop.is_set():  # not tried: due again at once
            return CallResult(call.row_id, CallState.DUE, call.attempts, None, None, None, 0)
        began = monotonic()
        answer = self._call(call)
        attempts = call.attempts + 1
        state, wait = reaction(answer, attempts, self._settings.inference_max_attempts, self._random)
        self._metrics.inference_calls.labels(state.value).inc()
        if state is CallState.DONE:
            self._health.recovered("inference")
        else:
            self._health.degraded("inference", f"the endpoint fails: {answer.error}")
        latency_ms = round((monotonic() - began) * 1000)
        error = None if state is CallState.DONE else answer.error
        return CallResult(call.row_id, state, attempts, answer.status, error, latency_ms, round(wait * 1000))

    def _call(self, call: InferenceCall) -> Answer:
        headers = {"Idempotency-Key": str(call.row_id)}
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        body: Mapping[str, object] = {"interactionId": call.interaction_id, "timestamp": call.timestamp_ms}
        try:
            with self._session.post(
                self._url,
                json=body,
                headers=headers,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as response:
                with suppress(HTTPError):  # the status decides; what is left of the answer is thrown away
                    response.raw.read(ANSWER_BYTES)  # enough to reuse the connection, never more
                status = response.status_code
                named = retry_after_seconds(response.headers.get("Retry-After"), time())
        except OSError as error:  # as every error of requests is
            return Answer(None, type(error).__name__)
        return Answer(status, None if 200 <= status < 300 else f"HTTP {status}", named)
