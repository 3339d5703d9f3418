"""Before encoding: rows that lack e-mail or agent are completed from the CXone REST API, each once.

A shard's cycle waits for this no longer than a part of its lease. Rows whose interaction CXone has not told
of yet are left for a later cycle, and so are those behind them in their interaction; the others go on.
"""

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from random import Random
from time import monotonic
from typing import Any
from urllib.parse import quote

import structlog
from cachetools import TTLCache

from outbox.rows import Contact, PendingRow
from outbox.store import Store
from relay.backoff import Backoff
from relay.errors import UnavailableError
from relay.health import ENRICHMENT, Health
from relay.http import Answer, Client, Verdict, verdict
from relay.metrics import RelayMetrics
from relay.oauth import TokenError, Tokens, lacks_scope
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

CYCLE_SECONDS = 2.0
"""What a cycle spends here at most; less if the lease is short."""
DOWN_SECONDS = 10.0
"""CXone counts as down after failing for this long without a success."""
CACHE_SECONDS, CACHE_ENTRIES = 300.0, 10_000
NOTHING_KNOWN = Contact(None, None)
EMAIL_CHARACTERS, AGENT_CHARACTERS = 320, 256


class Bucket:
    """A token bucket.

    Args:
        rate: tokens a second.
        burst: tokens that it holds when full.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._interval, self._slack = 1 / rate, (burst - 1) / rate
        self._next = float("-inf")

    def take(self, now: float) -> float:
        """Take a token, be it one of the future: seconds to wait for it."""
        slot = max(self._next, now - self._slack)
        self._next = slot + self._interval
        return max(0.0, slot - now)


class ThrottledError(UnavailableError):
    """CXone works, and asks to be called less often: in so many seconds, or 0 if it does not say."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Enricher:
    """Completes rows. Safe to use from the threads of many shards, which share its limits.

    Args:
        settings: of the relay.
        store: where what was learned is kept.
        stop: set when the process is to end.
        health: told while CXone does not answer.
        metrics: of the relay.
    """

    def __init__(
        self, settings: RelaySettings, store: Store, stop: threading.Event, health: Health, metrics: RelayMetrics
    ) -> None:
        self._settings, self._store, self._stop = settings, store, stop
        self._health, self._metrics = health, metrics
        random = Random()  # noqa: S311 - jitter, not cryptography
        self._tokens = Tokens(settings, random, metrics)
        self._client = Client(settings.cxone_enrich_concurrency)
        self._pool = ThreadPoolExecutor(settings.cxone_enrich_concurrency, thread_name_prefix=ENRICHMENT)
        self._cycle_seconds = min(CYCLE_SECONDS, settings.relay_lease_seconds / 4)
        self._lock = threading.Lock()
        self._known: TTLCache[str, Contact] = TTLCache(CACHE_ENTRIES, CACHE_SECONDS)
        self._asking: dict[str, Future[None]] = {}
        self._bucket = Bucket(settings.cxone_enrich_rate, max(1.0, settings.cxone_enrich_rate))
        self._backoff = Backoff(random, base_seconds=0.5, cap_seconds=30.0)
        self._paused_until, self._failing_since = 0.0, float("inf")

    def complete(self, rows: list[PendingRow]) -> list[PendingRow]:
        """Of these rows of a shard, those that may be sent now, completed, in their order.

        Takes a part of the lease at most; no database transaction is open while CXone is asked.
        """
        interactions = list(dict.fromkeys(row.interaction_id for row in rows if row.incomplete))
        if not interactions:
            return rows
        known = self._look_up(interactions)
        learned = [(r, known[r.interaction_id]) for r in rows if r.incomplete and r.interaction_id in known]
        completed = {row.id: row for row in self._store.learn(learned)}
        as_they_are = self._settings.cxone_enrich_when_down == "send" and self._down()
        return sendable([completed.get(row.id, row) for row in rows], as_they_are=as_they_are)

    def _look_up(self, interactions: Sequence[str]) -> dict[str, Contact]:
        """What is known of these, asking for what is not, until a cycle's time is over."""
        until, left, known = monotonic() + self._cycle_seconds, deque(interactions), dict[str, Contact]()
        while left and not self._stop.is_set():
            asked = self._ask_for(left, known)
            patience = until - monotonic()
            if not left or patience <= 0 or (self._down() and self._settings.cxone_enrich_when_down == "send"):
                break
            if asked:
                wait(asked, patience, FIRST_COMPLETED)
            else:
                self._stop.wait(min(patience, max(0.01, self._paused_until - monotonic())))
        return known

    def _ask_for(self, left: deque[str], known: dict[str, Contact]) -> list[Future[None]]:
        """Move what is known by now from ``left``; ask for as many others as may be under way at once."""
        asked = []
        with self._lock:
            for _ in range(len(left)):
                interaction = left.popleft()
                if (contact := self._known.get(interaction)) is not None:
                    known[interaction] = contact
                    continue
                left.append(interaction)
                future = self._asking.get(interaction)
                room = len(self._asking) < self._settings.cxone_enrich_concurrency
                if future is None and room and monotonic() >= self._paused_until:
                    future = self._asking[interaction] = self._pool.submit(self._ask, interaction)
                if future is not None:
                    asked.append(future)
        return asked

    def _ask(self, interaction: str) -> None:
        """Ask CXone for one interaction; in a thread of the pool."""
        try:
            if self._stop.wait(self._bucket_wait()):
                return
            contact = self._fetch(interaction)
        except UnavailableError as error:
            self._failed(error)
        except Exception:
            log.exception("a request to CXone met an error nobody expected", action="unexpected")
            self._failed(UnavailableError("unexpected error: see the log; please report it"))
        else:
            with self._lock:
                self._known[interaction] = contact
                self._failing_since, self._paused_until = float("inf"), 0.0
                self._backoff.succeeded()
            self._health.recovered(ENRICHMENT)
        finally:
            with self._lock:
                self._asking.pop(interaction, None)

    def _bucket_wait(self) -> float:
        with self._lock:
            return self._bucket.take(monotonic())

    def _fetch(self, interaction: str) -> Contact:
        if interaction in (".", ".."):  # no path segment can name them
            return NOTHING_KNOWN
        url = (self._settings.cxone_enrich_url or "").replace("{interactionId}", quote(interaction, safe=""))
        token = self._tokens.get()
        answer = self._get(url, token)
        if answer.status == 401:  # revoked, or expired by CXone's clock: once more with another one
            answer = self._get(url, self._tokens.get(stale=token))
        if answer.status == 403:
            raise lacks_scope(self._settings)
        return contact_of(answer, self._settings.cxone_enrich_email_path, self._settings.cxone_enrich_agent_path)

    def _get(self, url: str, token: str) -> Answer:
        return self._client.request(
            "GET", url, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"}
        )

    def _failed(self, error: UnavailableError) -> None:
        """Leave CXone alone for a while, and say why."""
        asked_for = error.seconds if isinstance(error, ThrottledError) else 0.0
        reason = error.outcome if isinstance(error, TokenError) else type(error).__name__
        self._metrics.retries.labels(ENRICHMENT, reason).inc()
        with self._lock:
            now = monotonic()
            self._paused_until = max(self._paused_until, now + max(self._backoff.failed(), asked_for))
            if not isinstance(error, ThrottledError):
                self._failing_since = min(self._failing_since, now)
        self._health.degraded(ENRICHMENT, str(error))

    def _down(self) -> bool:
        return monotonic() - self._failing_since >= DOWN_SECONDS


def sendable(rows: Sequence[PendingRow], *, as_they_are: bool) -> list[PendingRow]:
    """Rows that may be sent: the complete ones, none behind an incomplete one of its interaction.

    Args:
        rows: of a shard, in order.
        as_they_are: do not wait for what is missing.
    """
    if as_they_are:
        return list(rows)
    held, ready = set(), []
    for row in rows:
        if row.incomplete:
            held.add(row.interaction_id)
        if row.interaction_id not in held:
            ready.append(row)
    return ready


def contact_of(answer: Answer, email_paths: str, agent_paths: str) -> Contact:
    """What an answer tells of an interaction; 204, 404 and refusals of the very request tell nothing.

    Args:
        answer: of CXone, no 403.
        email_paths: JSON Pointers, separated by commas.
        agent_paths: likewise.

    Raises:
        UnavailableError: it may tell later.
    """
    if answer.status == 401:
        raise TokenError(
            "invalid_credentials",
            "CXone answers 401 to a fresh token: the credentials are invalid or expired: check CXONE_CLIENT_ID, and "
            "that CXONE_OAUTH_URL and CXONE_ENRICH_URL are of the same region",
        )
    meant = verdict(answer)
    if meant is Verdict.LATER:
        if answer.retry_after_seconds is not None or answer.status == 429:
            raise ThrottledError(
                f"CXone asks to be called less often ({answer.error}): rows wait", answer.retry_after_seconds or 0.0
            )
        raise UnavailableError(f"CXone does not answer the request for an interaction ({answer.error}): rows wait")
    if meant is Verdict.REFUSED or answer.status == 204:
        if answer.status not in (204, 404):
            log.warning("CXone refuses a request for an interaction: %s", answer.error, action="enrichment_refused")
        return NOTHING_KNOWN
    try:
        document = json.loads(answer.body or b"")
    except ValueError:
        raise UnavailableError("CXONE_ENRICH_URL answers something that is no JSON, or broke off: rows wait") from None
    return Contact(
        _first(document, email_paths, EMAIL_CHARACTERS, "@"), _first(document, agent_paths, AGENT_CHARACTERS, "")
    )


def _first(document: Any, paths: str, most: int, holds: str) -> str | None:
    """The first value that a row can hold, at one of the pointers."""
    for path in paths.split(","):
        value = _at(document, path.strip())
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and 0 < len(value) <= most and holds in value and _storable(value):
            return value
    return None


def _at(document: Any, pointer: str) -> Any:
    """The value at a JSON Pointer (RFC 6901), or None."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = document.get(name)
        elif isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        else:
            return None
    return document


def _storable(value: str) -> bool:
    """Whether both databases and Avro can hold it: no NUL, no lone surrogate."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
