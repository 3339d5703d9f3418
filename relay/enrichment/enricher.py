"""Completes rows that lack e-mail or agent from the CXone REST API, before they are encoded.

A shard's cycle spends a limited time here. Rows that CXone has not answered for yet are left to a later cycle, with
those behind them in their interaction; rows of other interactions are sent. While CXone is down rows wait. An
interaction that CXone keeps failing on, while it answers for others, is given up.
"""

import threading
from collections import deque
from collections.abc import Container, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from http import HTTPStatus
from random import Random
from time import monotonic

import structlog
from cachetools import TTLCache

from outbox.models import EnrichedFields, PendingRow
from outbox.store import Store
from relay.enrichment.failures import FailureRecord
from relay.enrichment.oauth import TokenError, TokenSource
from relay.enrichment.request import is_one_segment, request_interaction
from relay.enrichment.response import NOTHING_KNOWN, RetryLaterError, ThrottledError, read_fields
from relay.enrichment.throttle import Throttle
from relay.errors import RowsAtFaultError, UnavailableError
from relay.health import ENRICHMENT, Health, report_unexpected
from relay.http_client import HttpClient, Outcome, classify
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

MAX_CYCLE_SECONDS = 2.0
"""Maximum time per cycle, or a quarter of the lease if that is shorter."""
CACHE_SECONDS = 300.0
MAX_CACHED = 10_000
MIN_WAIT_SECONDS = 0.01


class Enricher:
    """Completes rows. Safe to use from the threads of many shards, which share its limits.

    Args:
        settings: must contain ``CXONE_ENRICH_URL``.
        store: keeps what CXone answered.
        stop: set when the process is to end.
        health: shows a failing CXone.
        metrics: count failures.
        throttle: limits requests to CXone.
        failures: counts the failures of each interaction.
    """

    def __init__(
        self,
        settings: RelaySettings,
        store: Store,
        stop: threading.Event,
        health: Health,
        metrics: RelayMetrics,
        *,
        throttle: Throttle | None = None,
        failures: FailureRecord | None = None,
    ) -> None:
        self._settings, self._store, self._stop = settings, store, stop
        self._health, self._metrics = health, metrics
        random = Random()  # noqa: S311 - jitter, not cryptography
        self._throttle = throttle or Throttle(settings.cxone_enrich_rate, random)
        self._failures = failures or FailureRecord(random)
        self._tokens = TokenSource(settings, random, metrics)
        concurrency = settings.cxone_enrich_concurrency
        self._client = HttpClient(concurrency, ca_location=settings.http_ca_location)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix=ENRICHMENT)
        self._max_requests = concurrency
        self._cycle_seconds = min(MAX_CYCLE_SECONDS, settings.relay_lease_seconds / 4)
        self._send_on_outage = settings.cxone_enrich_on_outage == "send"
        self._lock = threading.Lock()
        self._known: TTLCache[str, EnrichedFields] = TTLCache(MAX_CACHED, CACHE_SECONDS)
        self._requests: dict[str, Future[None]] = {}
        """In progress, by interaction."""
        self._warned_of_id = False

    def complete(self, rows: list[PendingRow]) -> list[PendingRow]:
        """Complete rows of a shard; return those that may be sent now, in order.

        Takes at most a quarter of the lease. No database transaction is open while CXone is called.

        Raises:
            RowsAtFaultError: rows of interactions that are given up. An operator's retry requests them again.
        """
        interactions = list(dict.fromkeys(row.interaction_id for row in rows if row.incomplete))
        if not interactions:
            return rows
        known = self._look_up(interactions)
        answered = [row for row in rows if row.incomplete and row.interaction_id in known]
        completed = {
            row.id: row for row in self._store.store_enrichment([(row, known[row.interaction_id]) for row in answered])
        }
        given_up = self._give_up(interactions)
        if given_up and not self._send_on_outage:
            at_fault = [row for row in rows if row.incomplete and row.interaction_id in given_up]
            raise RowsAtFaultError({row.ref: given_up[row.interaction_id] for row in at_fault})
        send_all = self._send_on_outage and self._throttle.is_down()
        return sendable([completed.get(row.id, row) for row in rows], given_up, send_all=send_all)

    def _look_up(self, interactions: Sequence[str]) -> dict[str, EnrichedFields]:
        """Return what is known of these, requesting each of the others once, until the cycle's time is over."""
        deadline = monotonic() + self._cycle_seconds
        known, unknown = self._partition(interactions)
        awaited = dict[Future[None], str]()
        while not self._stop.is_set():
            self._start_requests(unknown, awaited)
            left = deadline - monotonic()
            if not (unknown or awaited) or left <= 0 or (self._send_on_outage and self._throttle.is_down()):
                break
            if awaited:
                done = [awaited.pop(future) for future in wait(awaited, left, FIRST_COMPLETED).done]
                with self._lock:
                    known |= {name: self._known[name] for name in done if name in self._known}
            else:
                self._stop.wait(min(left, max(MIN_WAIT_SECONDS, self._throttle.pause_seconds())))
        return known

    def _partition(self, interactions: Sequence[str]) -> tuple[dict[str, EnrichedFields], deque[str]]:
        """Split into what is known, and what to request or await, requests in progress first.

        Called once per cycle, because there may be thousands of interactions.
        """
        known, in_progress, new = dict[str, EnrichedFields](), list[str](), list[str]()
        with self._lock:
            for interaction in interactions:
                if (fields := self._known.get(interaction)) is not None:
                    known[interaction] = fields
                elif not is_one_segment(interaction):
                    known[interaction] = NOTHING_KNOWN
                    self._report_unusable_id()
                elif interaction in self._requests:
                    in_progress.append(interaction)
                elif self._failures.may_retry(interaction):
                    new.append(interaction)
        return known, deque(in_progress + new)

    def _report_unusable_id(self) -> None:
        """Count an id that is not requested. Log it once: senders choose ids, and could flood the log."""
        self._metrics.enrichment_not_requested.inc()
        if not self._warned_of_id:
            self._warned_of_id = True
            log.warning(
                "an interaction is not requested from CXone because its id is not a single segment of a URL's path; "
                "its rows are sent as they are, and outbox_enrichment_not_asked_total counts such interactions",
                action="enrichment_not_requested",
            )

    def _start_requests(self, unknown: deque[str], awaited: dict[Future[None], str]) -> None:
        """Move from ``unknown`` to ``awaited`` what is in progress, and start as many requests as are allowed."""
        with self._lock:
            while unknown:
                future = self._requests.get(unknown[0])
                if future is None:
                    if len(self._requests) >= self._max_requests or self._throttle.pause_seconds():
                        return
                    future = self._requests[unknown[0]] = self._pool.submit(self._request, unknown[0])
                awaited[future] = unknown.popleft()

    def _request(self, interaction: str) -> None:
        """Request one interaction; runs in a thread of the pool."""
        try:
            if self._stop.wait(self._throttle.reserve()) or self._throttle.is_within_retry_after():
                return
            fields = self._fetch(interaction)
        except UnavailableError as error:
            self._failed(interaction, error)
        except Exception as error:  # noqa: BLE001 - a bug must not end the thread
            self._failed(interaction, UnavailableError(report_unexpected(log, "request to CXone", error)))
        else:
            with self._lock:
                self._known[interaction] = fields
            self._failures.succeeded(interaction)
            self._throttle.succeeded()
            self._health.recovered(ENRICHMENT)
        finally:
            with self._lock:
                self._requests.pop(interaction, None)

    def _fetch(self, interaction: str) -> EnrichedFields:
        token = self._tokens.get()
        result = request_interaction(interaction, self._client, self._settings, token)
        if result.status == HTTPStatus.UNAUTHORIZED:  # revoked, or expired by CXone's clock
            token = self._tokens.get(rejected=token)
            result = request_interaction(interaction, self._client, self._settings, token)
        fields = read_fields(result, self._settings)
        if classify(result) is Outcome.REJECTED and result.status != HTTPStatus.NOT_FOUND:
            log.warning("CXone rejected a request for an interaction: %s", result.error, action="enrichment_rejected")
        return fields

    def _failed(self, interaction: str, error: UnavailableError) -> None:
        """Pause all requests, and those for this interaction for longer; report why."""
        reason = error.outcome if isinstance(error, TokenError) else type(error).__name__
        self._metrics.retries.labels(ENRICHMENT, reason).inc()
        retry_after = error.retry_after_seconds if isinstance(error, RetryLaterError) else 0.0
        is_up = isinstance(error, ThrottledError)
        self._throttle.failed(retry_after, is_up=is_up)
        if not is_up:
            self._failures.failed(interaction, str(error))
        self._health.degraded(ENRICHMENT, str(error))

    def _give_up(self, interactions: Sequence[str]) -> dict[str, str]:
        """Interactions to give up, and why. Their failure count restarts once their rows are parked."""
        given_up = {}
        for interaction in interactions:
            if (failure := self._failures.final_failure(interaction)) is not None:
                given_up[interaction] = (
                    f"CXone failed {failure.failures} times for this interaction and answered for others meanwhile "
                    f"({failure.reason}): relay retry requests it again; CXONE_ENRICH_ON_OUTAGE=send sends it as it is"
                )
                if not self._send_on_outage:
                    self._failures.forget(interaction)
        if given_up:  # the condition was its latest failure, and CXone works for others
            self._health.recovered(ENRICHMENT)
        return given_up


def sendable(rows: Sequence[PendingRow], given_up: Container[str], *, send_all: bool) -> list[PendingRow]:
    """Rows that may be sent: all but incomplete ones and those behind them in their interaction.

    Args:
        rows: of a shard, in order.
        given_up: interactions whose rows are sent although they are incomplete.
        send_all: send incomplete rows as well.
    """
    if send_all:
        return list(rows)
    waiting, ready = set(), []
    for row in rows:
        if row.incomplete and row.interaction_id not in given_up:
            waiting.add(row.interaction_id)
        if row.interaction_id not in waiting:
            ready.append(row)
    return ready
