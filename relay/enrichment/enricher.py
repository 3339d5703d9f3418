"""Before encoding: rows that lack e-mail or agent are completed from the CXone REST API, each once.

A shard's cycle waits for this no longer than a part of its lease. Rows whose interaction CXone has not told
of yet are left for a later cycle, and so are those behind them in their interaction; the others go on. While
CXone is down rows wait; an interaction that it fails on again and again while it tells of others is given up.
"""

import re
import threading
import unicodedata
from collections import deque
from collections.abc import Container, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from random import Random
from time import monotonic
from typing import NamedTuple
from urllib.parse import quote

import structlog
from cachetools import TTLCache

from outbox.models import EnrichedFields, PendingRow
from outbox.store import Store
from relay.backoff import Backoff, jittered_delay
from relay.enrichment.oauth import TokenError, Tokens, lacks_scope
from relay.enrichment.response import NOTHING_KNOWN, LaterError, ThrottledError, fields_of
from relay.errors import RowsAtFaultError, UnavailableError
from relay.health import ENRICHMENT, Health
from relay.http_client import Client, HttpResult, Outcome, classify
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

CYCLE_SECONDS = 2.0
"""What a cycle spends here at most; less if the lease is short."""
DOWN_SECONDS = 10.0
"""CXone counts as down after failing for this long without a success."""
CACHE_SECONDS, CACHE_ENTRIES = 300.0, 10_000
MOST_FAILURES = 20
"""An interaction is given up after so many failures that count; see ``failing``."""
REST_SECONDS, REST_CAP_SECONDS, FAILING_SECONDS = 1.0, 60.0, 3600.0
"""Pause of one interaction after a failure, first and longest; when it is forgotten that it failed."""


_SEPARATORS = re.compile(r"[/\\%?#;]")


def askable(interaction: str) -> bool:
    """Whether an interaction can be asked for: its id is one segment of a path, however often a server decodes it.

    Proxies and servers decode ``%2F`` and take dot segments out, so an id with separators, of dots alone or with
    characters that nobody sees could name another resource, which would be asked for with our token.
    """
    name = unicodedata.normalize("NFKC", interaction)  # some make a slash of what looks like one
    return name.isprintable() and not _SEPARATORS.search(name) and bool(name.strip(". "))


@cache
def _warn_of_id() -> None:
    """Once a process: senders choose ids, and a line for each would drown the log; the metric counts them."""
    log.warning(
        "an interaction is not asked for at CXone: its id is no single segment of a URL's path; its rows are sent as "
        "they are, and outbox_enrichment_not_asked_total counts such interactions",
        action="enrichment_not_asked",
    )


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


class Failing(NamedTuple):
    """An interaction that CXone fails on."""

    failures: int
    """Those that count."""
    rest_until: float
    told_before: int
    """Of how many interactions CXone had told at the latest failure."""
    reason: str


def failing(before: Failing | None, told: int, now: float, random: Random, reason: str) -> Failing:
    """An interaction after another failure. It counts only if CXone told of others since the one before: while it is
    down as a whole, its failures say nothing about an interaction.

    Args:
        before: as it was; None: it had not failed.
        told: of how many interactions CXone has told so far.
        now: of the monotonic clock.
        random: source of the jitter.
        reason: of the failure, without values of a row.
    """
    failures = before.failures + (told > before.told_before) if before else 0
    rest = jittered_delay(max(1, failures), random, REST_SECONDS, REST_CAP_SECONDS)
    return Failing(failures, now + rest, told, reason)


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
        self._client = Client(settings.cxone_enrich_concurrency, ca_location=settings.http_ca_location)
        self._pool = ThreadPoolExecutor(settings.cxone_enrich_concurrency, thread_name_prefix=ENRICHMENT)
        self._cycle_seconds = min(CYCLE_SECONDS, settings.relay_lease_seconds / 4)
        self._lock = threading.Lock()
        self._known: TTLCache[str, EnrichedFields] = TTLCache(CACHE_ENTRIES, CACHE_SECONDS)
        self._asking: dict[str, Future[None]] = {}
        self._failing: TTLCache[str, Failing] = TTLCache(CACHE_ENTRIES, FAILING_SECONDS)
        self._told = 0
        self._bucket = Bucket(settings.cxone_enrich_rate, max(1.0, settings.cxone_enrich_rate))
        self._random, self._backoff = random, Backoff(random, base_seconds=0.5, cap_seconds=30.0)
        self._send_when_down = settings.cxone_enrich_on_outage == "send"
        self._paused_until, self._asked_until = 0.0, 0.0  # after failures; as CXone asked for
        self._failing_since = float("inf")

    def complete(self, rows: list[PendingRow]) -> list[PendingRow]:
        """Of these rows of a shard, those that may be sent now, completed, in their order.

        Takes a part of the lease at most; no database transaction is open while CXone is asked.

        Raises:
            RowsAtFaultError: rows of interactions that are given up; asked for again after a retry.
        """
        interactions = list(dict.fromkeys(row.interaction_id for row in rows if row.incomplete))
        if not interactions:
            return rows
        known = self._look_up(interactions)
        learned = [(r, known[r.interaction_id]) for r in rows if r.incomplete and r.interaction_id in known]
        completed = {row.id: row for row in self._store.store_enrichment(learned)}
        given_up = self._give_up(interactions)
        if given_up and not self._send_when_down:
            at_fault = [row for row in rows if row.incomplete and row.interaction_id in given_up]
            raise RowsAtFaultError({row.ref: given_up[row.interaction_id] for row in at_fault})
        as_they_are = self._send_when_down and self._down()
        return sendable([completed.get(row.id, row) for row in rows], given_up, as_they_are=as_they_are)

    def _look_up(self, interactions: Sequence[str]) -> dict[str, EnrichedFields]:
        """What is known of these, asking for what is not, each once, until a cycle's time is over."""
        until = monotonic() + self._cycle_seconds
        known, left = self._known_and_left(interactions)
        asked = dict[Future[None], str]()
        while not self._stop.is_set():
            self._ask_more(left, asked)
            patience = until - monotonic()
            if not (left or asked) or patience <= 0 or (self._send_when_down and self._down()):
                break
            if not asked:
                pause = max(self._paused_until, self._asked_until) - monotonic()
                self._stop.wait(min(patience, max(0.01, pause)))
                continue
            done = [asked.pop(future) for future in wait(asked, patience, FIRST_COMPLETED).done]
            with self._lock:
                known |= {each: self._known[each] for each in done if each in self._known}
        return known

    def _known_and_left(self, interactions: Sequence[str]) -> tuple[dict[str, EnrichedFields], deque[str]]:
        """What is known already, and who is to be asked for, those under way first: once a cycle, they may be many."""
        known, under_way, left = dict[str, EnrichedFields](), list[str](), list[str]()
        with self._lock:
            now = monotonic()
            for interaction in interactions:
                failed = self._failing.get(interaction) if self._failing else None
                if (contact := self._known.get(interaction)) is not None:
                    known[interaction] = contact
                elif not askable(interaction):
                    known[interaction] = NOTHING_KNOWN
                    self._metrics.enrichment_skipped.inc()
                    _warn_of_id()
                elif interaction in self._asking:
                    under_way.append(interaction)
                elif failed is None or (failed.failures < MOST_FAILURES and now >= failed.rest_until):
                    left.append(interaction)
        return known, deque(under_way + left)

    def _ask_more(self, left: deque[str], asked: dict[Future[None], str]) -> None:
        """Move from ``left`` to ``asked`` those under way, and as many others as may be at once."""
        with self._lock:
            while left:
                future = self._asking.get(left[0])
                if future is None:
                    room = len(self._asking) < self._settings.cxone_enrich_concurrency
                    if not room or monotonic() < max(self._paused_until, self._asked_until):
                        return
                    future = self._asking[left[0]] = self._pool.submit(self._ask, left[0])
                asked[future] = left.popleft()

    def _give_up(self, interactions: Sequence[str]) -> dict[str, str]:
        """Interactions that failed too often alone, and why. They are forgotten where their rows are parked."""
        given_up = {}
        with self._lock:
            for interaction in interactions if self._failing else ():
                failed = self._failing.get(interaction)
                if failed is not None and failed.failures >= MOST_FAILURES:
                    given_up[interaction] = (
                        f"CXone failed {failed.failures} times for this interaction and told of others meanwhile "
                        f"({failed.reason}): relay retry asks again; with CXONE_ENRICH_ON_OUTAGE=send it goes as it is"
                    )
                    if not self._send_when_down:
                        self._failing.pop(interaction, None)
        if given_up:  # it was the last failure that is told, and CXone works for others
            self._health.recovered(ENRICHMENT)
        return given_up

    def _ask(self, interaction: str) -> None:
        """Ask CXone for one interaction; in a thread of the pool."""
        try:
            if self._stop.wait(self._bucket_wait()) or monotonic() < self._asked_until:
                return
            contact = self._fetch(interaction)
        except UnavailableError as error:
            self._failed(interaction, error)
        except Exception:
            log.exception("a request to CXone met an error nobody expected", action="unexpected")
            self._failed(interaction, UnavailableError("unexpected error: see the log; please report it"))
        else:
            with self._lock:
                self._known[interaction] = contact
                self._failing.pop(interaction, None)
                self._told += 1
                self._failing_since, self._paused_until = float("inf"), 0.0
                self._backoff.succeeded()
            self._health.recovered(ENRICHMENT)
        finally:
            with self._lock:
                self._asking.pop(interaction, None)

    def _bucket_wait(self) -> float:
        with self._lock:
            return self._bucket.take(monotonic())

    def _fetch(self, interaction: str) -> EnrichedFields:
        token = self._tokens.get()
        answer = ask_for(interaction, self._client, self._settings, token)
        if answer.status == 401:  # revoked, or expired by CXone's clock: once more with another one
            answer = ask_for(interaction, self._client, self._settings, self._tokens.get(stale=token))
        contact = told_by(answer, self._settings)
        if classify(answer) is Outcome.REFUSED and answer.status != 404:
            log.warning("CXone refuses a request for an interaction: %s", answer.error, action="enrichment_refused")
        return contact

    def _failed(self, interaction: str, error: UnavailableError) -> None:
        """Leave CXone alone for a while, and the interaction for longer, and say why."""
        asked_for = error.seconds if isinstance(error, LaterError) else 0.0
        reason = error.outcome if isinstance(error, TokenError) else type(error).__name__
        self._metrics.retries.labels(ENRICHMENT, reason).inc()
        with self._lock:
            now = monotonic()
            self._paused_until = max(self._paused_until, now + self._backoff.failed())
            self._asked_until = max(self._asked_until, now + asked_for)
            if not isinstance(error, ThrottledError):
                self._failing_since = min(self._failing_since, now)
                before = self._failing.get(interaction)
                self._failing[interaction] = failing(before, self._told, now, self._random, str(error))
        self._health.degraded(ENRICHMENT, str(error))

    def _down(self) -> bool:
        return monotonic() - self._failing_since >= DOWN_SECONDS


def ask_for(interaction: str, client: Client, settings: RelaySettings, token: str) -> HttpResult:
    """One request for an interaction."""
    url = (settings.cxone_enrich_url or "").replace("{interactionId}", quote(interaction, safe=""))
    return client.request("GET", url, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})


def told_by(answer: HttpResult, settings: RelaySettings) -> EnrichedFields:
    """What an answer tells of an interaction.

    Raises:
        UnavailableError: it may tell later, or once settings or rights are put right.
    """
    if answer.status == 403:
        raise lacks_scope(settings)
    return fields_of(answer, settings.cxone_enrich_email_path, settings.cxone_enrich_agent_path)


def sendable(rows: Sequence[PendingRow], given_up: Container[str], *, as_they_are: bool) -> list[PendingRow]:
    """Rows that may be sent: the complete ones, none behind an incomplete one of its interaction.

    Args:
        rows: of a shard, in order.
        given_up: interactions that nothing more is waited for.
        as_they_are: do not wait for what is missing.
    """
    if as_they_are:
        return list(rows)
    held, ready = set(), []
    for row in rows:
        if row.incomplete and row.interaction_id not in given_up:
            held.add(row.interaction_id)
        if row.interaction_id not in held:
            ready.append(row)
    return ready
