"""Rows completed from CXone before they are sent, and failures of CXone, on both databases."""

import io
import json
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs

import fastavro
import pytest
import trustme
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.leases import Leases
from outbox.models import EnrichedFields, PendingRow
from outbox.store import Store
from relay.backoff import Backoff
from relay.enrichment.enricher import Enricher
from relay.enrichment.failures import FailurePolicy, FailureRecord
from relay.enrichment.oauth import TokenError, TokenSource, fetch_token
from relay.enrichment.throttle import Throttle
from relay.health import Health
from relay.kafka.avro import SCHEMA_TEXT
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from testkit.command_line import command
from testkit.deployment import Deployment
from testkit.jitter import MaxJitter
from testkit.outbox import mark
from testkit.relay_process import RelayProcess
from testkit.rows import new_row
from testkit.simulator import Simulator
from testkit.simulator.server import ACCESS_KEY, ACCESS_SECRET, SECRET
from testkit.waiting import wait_until

_SCHEMA = fastavro.parse_schema(json.loads(SCHEMA_TEXT))
ENRICHED = "SELECT count(*) FROM outbox WHERE enriched_at IS NOT NULL"


@pytest.fixture
def enriched(deployment: Deployment, simulator: Simulator) -> Deployment:
    """A deployment whose relays complete rows from the simulator."""
    deployment.environ.update(simulator.enrichment)
    return deployment


def values(deployment: Deployment) -> list[tuple[str, str | None, str | None]]:
    """Interaction, e-mail and agent of each record in the topic, in the order of the rows."""
    found = []
    for record in sorted(deployment.seen(), key=lambda each: each.outbox_id):
        value: Any = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), _SCHEMA, None)
        found.append((value["interactionId"], value["customerEmail"], value["agentId"]))
    return found


def lacking(*interactions: str, **further: Any) -> list[Any]:
    """Rows that lack e-mail and agent."""
    return [new_row(name, customer_email=None, agent_id=None, **further) for name in interactions]


def test_missing_fields_are_requested_once_and_stored(enriched: Deployment, simulator: Simulator) -> None:
    """Each interaction is requested once; existing values are kept; that nothing is known is stored as well."""
    simulator.contacts = {"a ü=": {"customer": {"email": "a@b"}, "agentId": 7}, "none": 404, "empty": 204}
    rows = [*lacking("a ü=", "none", "empty", "a ü="), new_row("half", customer_email=None), new_row("whole")]
    ids = enriched.record(rows)
    enriched.relay()
    enriched.wait_drained()
    enriched.check_exactly_once(ids)
    assert values(enriched) == [
        ("a ü=", "a@b", "7"),
        ("none", None, None),
        ("empty", None, None),
        ("a ü=", "a@b", "7"),
        ("half", "learned@example.com", "agent-7"),
        ("whole", "someone@example.com", "agent-7"),
    ]
    assert sorted(simulator.requested_contacts()) == ["a ü=", "empty", "half", "none"]
    assert {request.path for request in simulator.requests["contact"]} >= {"/contacts/a%20%C3%BC%3D"}
    assert enriched.query(ENRICHED) == [(5,)]
    assert len(simulator.requests["token"]) == 1


def test_services_with_a_private_authority(deployment: Deployment, tmp_path: Path) -> None:
    """OAuth, CXone and inference are refused until HTTP_CA_LOCATION names their authority."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with closing(Simulator(tls=tls)) as simulator:
        deployment.environ.update({**simulator.enrichment, **simulator.inference, "INFERENCE_TOKEN": "t"})
        ids = deployment.record(lacking("a"))
        relay = deployment.relay()
        relay.wait_degraded("enrichment", "HTTP_CA_LOCATION")
        relay.stop()
        deployment.relay(HTTP_CA_LOCATION=str(tmp_path / "ca.pem"))
        deployment.wait_drained()
        deployment.check_exactly_once(ids)
        assert values(deployment) == [("a", "learned@example.com", "42")]
        wait_until(lambda: simulator.scored_keys() == ids, "it is called")


def test_a_revoked_token_is_replaced_once(enriched: Deployment, simulator: Simulator) -> None:
    """One token is fetched for all threads, and rejected requests are repeated."""
    enriched.relay()
    enriched.record(lacking("a"))
    enriched.wait_drained()
    simulator.tokens.clear()
    enriched.record(lacking(*(f"i-{number}" for number in range(8))))
    enriched.wait_drained()
    assert len(simulator.requests["token"]) == 2
    assert {email for _, email, _ in values(enriched)} == {"learned@example.com"}


def test_while_cxone_is_down_only_incomplete_rows_wait(enriched: Deployment, simulator: Simulator) -> None:
    """The lease is kept, the condition is shown, and the order within interactions holds."""
    simulator.behave("contact", "hang")
    relay = enriched.relay(RELAY_LEASE_SECONDS="3")
    whole = [new_row("waits"), new_row("other")]
    ids = enriched.record([*lacking("waits"), *whole])
    wait_until(lambda: enriched.pending() == 2, "the complete row of another interaction is sent")
    epoch = enriched.store.status()[0].epoch
    relay.wait_degraded("enrichment", "the request to CXone failed")
    condition = "enrichment: the request to CXone failed"
    wait_until(lambda: condition in (enriched.store.status()[0].condition or ""), "status shows it")
    assert enriched.store.status()[0].epoch == epoch
    simulator.behave("contact", "ok")
    simulator.release()
    enriched.wait_drained()
    enriched.check_exactly_once(ids)
    wait_until(lambda: not relay.degraded() and not enriched.store.status()[0].condition, "it has recovered")


def test_rows_can_be_sent_incomplete_during_an_outage(enriched: Deployment, simulator: Simulator) -> None:
    """CXONE_ENRICH_ON_OUTAGE=send: once CXone stays down, even with a Retry-After, rows are sent as they are."""
    simulator.behave("contact", "503:300")
    ids = enriched.record(lacking("a", "b"))
    enriched.relay(CXONE_ENRICH_ON_OUTAGE="send")
    enriched.wait_drained()
    enriched.check_exactly_once(ids)
    assert {email for _, email, _ in values(enriched)} == {None}
    assert enriched.query(ENRICHED) == [(0,)]


def hasty_relay(deployment: Deployment, **environ: str) -> RelayProcess:
    """A relay that gives up an interaction after two failures that count, with short pauses between them."""
    process = RelayProcess(
        {**deployment.environ, **environ}, deployment.folder / "hasty.log", entry=("testkit.hasty_relay",)
    )
    deployment.relays.append(process)
    return process


def send_others_until(deployment: Deployment, condition: Callable[[], object], what: str) -> list[int]:
    """Record rows of other interactions, which are completed and sent, until the condition holds; return their ids."""
    ids: list[int] = []

    def send_another() -> object:
        ids.extend(deployment.record(lacking(f"other-{len(ids)}")))
        last = ids[-1]
        wait_until(
            lambda: deployment.query(f"SELECT state FROM outbox_rows WHERE id = {last}") == [("sent",)], "it is sent"
        )
        return condition()

    wait_until(send_another, what)
    return ids


def test_an_interaction_that_cxone_keeps_failing_on_is_parked(enriched: Deployment, simulator: Simulator) -> None:
    """With the reason, while CXone answers for others; rows behind it wait, and a retry requests it again."""
    simulator.contacts = {"bad": 500}
    bad, *behind = enriched.record([*lacking("bad"), new_row("bad")])
    relay = hasty_relay(enriched)
    parked = "SELECT error FROM outbox_rows WHERE state = 'parked'"
    others = send_others_until(enriched, lambda: enriched.query(parked), "it is parked")
    ((error,),) = enriched.query(parked)
    assert "CXone failed 2 times for this interaction and answered for others meanwhile" in error
    assert "HTTP 500" in error
    assert [shard.waiting for shard in enriched.store.status()] == [1]
    wait_until(lambda: not relay.degraded(), "nothing is degraded any more")
    requests = simulator.requested_contacts().count("bad")
    retried = command(enriched.environ, "retry", "--id", str(bad), "--reason", "CXone is repaired", "--yes")
    assert retried.returncode == 0, retried.stderr
    wait_until(lambda: simulator.requested_contacts().count("bad") > requests, "it is requested again")
    simulator.contacts = {}
    enriched.wait_drained()
    enriched.check_exactly_once([bad, *behind, *others])
    assert all(email for _, email, _ in values(enriched))


def test_while_cxone_fails_on_everything_nothing_is_parked(enriched: Deployment, simulator: Simulator) -> None:
    """A failure counts only if other interactions succeed."""
    ids = enriched.record(lacking("before"))
    hasty_relay(enriched)
    enriched.wait_drained()
    simulator.behave("contact", "500")
    ids += enriched.record(lacking("a"))
    wait_until(lambda: simulator.requested_contacts().count("a") >= 4, "it fails more often than allowed")
    simulator.behave("contact", "ok")
    enriched.wait_drained()
    enriched.check_exactly_once(ids)


def test_an_interaction_that_is_given_up_can_be_sent_incomplete(enriched: Deployment, simulator: Simulator) -> None:
    """CXONE_ENRICH_ON_OUTAGE=send: although CXone is not down; later rows of it are not requested."""
    simulator.contacts = {"bad": 500}
    ids = enriched.record([*lacking("bad"), new_row("bad")])
    hasty_relay(enriched, CXONE_ENRICH_ON_OUTAGE="send")
    sent = "SELECT count(*) FROM outbox_rows WHERE state = 'sent' AND interaction_id = 'bad'"
    ids += send_others_until(enriched, lambda: enriched.query(sent) == [(2,)], "they are sent")
    requests = simulator.requested_contacts().count("bad")
    ids += enriched.record(lacking("bad"))
    enriched.wait_drained()
    assert simulator.requested_contacts().count("bad") == requests
    enriched.check_exactly_once(ids)
    found = values(enriched)
    assert (found[0], found[-1]) == (("bad", None, None), ("bad", None, None))
    assert all(email for _, email, _ in found[1:-1])


def test_retry_after_is_honoured(enriched: Deployment, simulator: Simulator) -> None:
    """No request is sent before it is over."""
    simulator.behave("contact", "429:3", "ok")
    enriched.record(lacking("a", "b", "c"))
    relay = enriched.relay(CXONE_ENRICH_CONCURRENCY="1")
    relay.wait_degraded("enrichment", "limits the rate")
    enriched.wait_drained()
    first, *others = [request.at for request in simulator.requests["contact"]]
    assert min(others) - first >= 2.9


def test_the_rate_is_limited(enriched: Deployment, simulator: Simulator) -> None:
    """CXONE_ENRICH_RATE applies to all shards together, after a burst of one second's worth."""
    enriched.record(lacking(*(f"i-{number}" for number in range(15))))
    enriched.relay(CXONE_ENRICH_RATE="5")
    enriched.wait_drained()
    times = sorted(request.at for request in simulator.requests["contact"])
    assert len(times) == 15
    assert times[-1] - times[0] >= 1.5


def check_refusal(relay: RelayProcess, text: str) -> None:
    """Wait for this condition; neither log nor responses contain the secret, although CXone quotes it."""
    relay.wait_degraded("enrichment", text)
    assert SECRET not in relay.log.read_text() + relay.get("/readyz") + relay.get("/metrics")


def test_wrong_credentials_and_a_missing_scope_are_shown(enriched: Deployment, simulator: Simulator) -> None:
    """Rows wait, the remedy is named, and the token endpoint is called with backoff."""
    enriched.record(lacking("a"))
    relay = enriched.relay(CXONE_CLIENT_ID="wrong")
    check_refusal(relay, "the credentials are invalid or expired: check CXONE_CLIENT_ID and CXONE_CLIENT_SECRET")
    assert 'outbox_token_refreshes_total{outcome="invalid_credentials"}' in relay.get("/metrics")
    received, began = len(simulator.requests["token"]), time.monotonic()
    wait_until(lambda: len(simulator.requests["token"]) > received + 1, "it retries")
    assert len(simulator.requests["token"]) - received < 5 * (time.monotonic() - began) + 5
    relay.stop()
    simulator.behave("contact", "403")
    check_refusal(enriched.relay(), "the client lacks scope interaction:read")
    assert enriched.pending() == 1


def settings(simulator: Simulator, **further: str) -> RelaySettings:
    """Settings for enrichment alone."""
    given = {
        **simulator.enrichment,
        "KAFKA_BOOTSTRAP_SERVERS": "x",
        "SCHEMA_REGISTRY_URL": "http://x",
        **further,
    }
    return RelaySettings.model_validate({name.lower(): value for name, value in given.items()})


def refusal(simulator: Simulator, **further: str) -> str:
    """The error of fetching a token."""
    with pytest.raises(TokenError) as caught:
        fetch_token(settings(simulator, **further))
    return str(caught.value)


def test_a_token_is_fetched_with_both_grants(simulator: Simulator) -> None:
    """Or the error says why not, without a secret, whatever the endpoint returns."""
    keys = {"CXONE_ACCESS_KEY_ID": ACCESS_KEY, "CXONE_ACCESS_KEY_SECRET": ACCESS_SECRET}
    password = {"CXONE_OAUTH_GRANT": "password", **keys}
    assert fetch_token(settings(simulator)) == "token-1"
    assert fetch_token(settings(simulator, **password)) == "token-2"
    forms = [parse_qs(request.body.decode()) for request in simulator.requests["token"]]
    assert forms[0] == {"grant_type": ["client_credentials"], "scope": ["interaction:read"]}
    assert forms[1]["grant_type"] == ["password"]
    error = refusal(simulator, **{**password, "CXONE_ACCESS_KEY_SECRET": "canary"})
    assert "CXONE_ACCESS_KEY_SECRET" in error
    assert "canary" not in error
    for behaviour, message in [
        ("403", "lacks scope"),
        ("404", "check that it is the token endpoint"),
        ("cut", "no access_token"),
        ("redirect", "check that it is the token endpoint"),
        ("500", "the relay retries"),
        ("429", "429"),
        ("drop", "ConnectionError"),
    ]:
        simulator.behave("token", behaviour)
        assert message in refusal(simulator), behaviour


def test_many_threads_fetch_one_token(simulator: Simulator) -> None:
    """Threads that need it meanwhile wait for it; it is renewed before it expires."""
    simulator.behave("token", "slow:0.3")
    simulator.token_seconds = 4.0
    tokens = TokenSource(settings(simulator), Random(1))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: tokens.get(), range(32))) == {"token-1"}
        assert set(pool.map(lambda _: tokens.get("token-1"), range(8))) == {"token-2"}
    wait_until(lambda: tokens.get() == "token-3", "it is renewed after half of its time")
    _, second, third = simulator.requests["token"]
    assert third.at - second.at < 3.8


def test_retry_after_of_the_token_endpoint_is_honoured(simulator: Simulator) -> None:
    """Until then the same error is raised again, without a request."""
    simulator.behave("token", "429:2", "ok")
    tokens = TokenSource(settings(simulator), Random(1))

    def token() -> str | None:
        try:
            return tokens.get()
        except TokenError:
            return None

    assert wait_until(token, "there is a token") == "token-2"
    first, second = simulator.requests["token"]
    assert second.at - first.at >= 1.9


class Harness:
    """The rows of one shard and their enricher, in this process."""

    def __init__(
        self,
        engine: Engine,
        simulator: Simulator,
        *,
        throttle: Throttle | None = None,
        failures: FailureRecord | None = None,
        **further: str,
    ) -> None:
        self.store, self._lease = Store(engine), Leases(engine, "me", 600).take(0)
        self._metrics = RelayMetrics(CollectorRegistry())
        self.enricher = Enricher(
            settings(simulator, **further), self.store, threading.Event(), Health(), self._metrics,
            throttle=throttle, failures=failures,
        )  # fmt: skip

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self._metrics.registry.get_sample_value(name, labels) or 0.0

    def pending(self) -> list[PendingRow]:
        """The pending rows."""
        assert self._lease is not None
        return self.store.pending(self._lease, 5_000)

    def complete(self) -> list[PendingRow]:
        """Complete the pending rows; return those that may be sent."""
        return self.enricher.complete(self.pending())


def constant_backoff(seconds: float) -> Backoff:
    """Pauses of this length."""
    return Backoff(MaxJitter(), base_seconds=seconds, cap_seconds=seconds)


def test_concurrent_requests_are_limited(engine: Engine, simulator: Simulator) -> None:
    """A cycle waits two seconds, and requests none again that is in progress; none is queued behind those either."""
    simulator.behave("contact", "hang")
    harness = Harness(
        engine, simulator, throttle=Throttle(33, MaxJitter(), constant_backoff(60.0)), CXONE_ENRICH_CONCURRENCY="3"
    )
    harness.store.record(lacking(*(f"i-{number}" for number in range(500))))
    for _ in range(2):
        began = time.monotonic()
        assert harness.complete() == []
        assert 1.9 < time.monotonic() - began < 8
    simulator.release()
    failed = {"stage": "enrichment", "reason": "RetryLaterError"}
    wait_until(lambda: harness.metric("outbox_retries_total", **failed) == 3, "the requests in progress end")
    assert sorted(simulator.requested_contacts()) == ["i-0", "i-1", "i-2"]


def test_a_request_of_an_earlier_cycle_is_awaited_first(engine: Engine, simulator: Simulator) -> None:
    """Its interaction is not requested again, although others come before it in the shard."""
    simulator.behave("contact", "slow:4", "ok")  # a cycle waits a quarter of a lease, on a busy machine some more
    harness = Harness(engine, simulator, CXONE_ENRICH_CONCURRENCY="1", RELAY_LEASE_SECONDS="3")
    harness.store.record(lacking("earlier"))
    (earlier,) = harness.pending()
    assert harness.enricher.complete([earlier]) == []
    harness.store.record(lacking("later"))
    _, later = harness.pending()
    completed = wait_until(lambda: harness.enricher.complete([later, earlier]), "a row is completed")
    assert earlier.id in [row.id for row in completed]
    wait_until(lambda: len(simulator.requested_contacts()) == 2, "both are requested")
    assert simulator.requested_contacts() == ["earlier", "later"]


NAMES_ANOTHER_RESOURCE = (
    *(".", "..", " . ", "..."),
    *("../admin", "a/../b", "a/b", "/a", "a/", "a//b", "a\\b", "..\\a"),
    *("%2e%2e", "%2E", "%252e%252e", "a%2fb", "%", "..;", "a;b=c", "a?b", "a#b"),
    *("\uff0e\uff0e", "a\uff0fb", "\u2025", "a\u2044..\u2044b\uff3c", ".\u200b.", "..\t", "a\nb", ".\x7f."),
)


def test_an_id_that_could_name_another_resource_is_not_requested(engine: Engine, simulator: Simulator) -> None:
    """The sender of an id must not choose which resource sees our token. The row is sent as it is."""
    harness = Harness(engine, simulator)
    harness.store.record(lacking(*NAMES_ANOTHER_RESOURCE))
    sent = harness.complete()
    assert [row.interaction_id for row in sent] == list(NAMES_ANOTHER_RESOURCE)
    assert simulator.requests["contact"] == []
    assert simulator.requests["token"] == []
    assert not any(row.incomplete for row in sent)
    assert harness.metric("outbox_enrichment_not_asked_total") == len(NAMES_ANOTHER_RESOURCE)


def test_an_unusual_id_is_requested_as_one_segment(engine: Engine, simulator: Simulator) -> None:
    """An id that names no other resource is percent-encoded."""
    ids = ["a:b@c", "==", "+&,'", "ü \U0001f600", "..a", "a..b", "~-_.x", "1 2"]
    harness = Harness(engine, simulator)
    harness.store.record(lacking(*ids))
    wait_until(lambda: len(harness.complete()) == len(ids), "each is completed")
    assert sorted(simulator.requested_contacts()) == sorted(ids)


def test_a_short_failure_is_not_an_outage(engine: Engine, simulator: Simulator) -> None:
    """With CXONE_ENRICH_ON_OUTAGE=send a row still waits for the next response."""
    simulator.behave("contact", "500", "ok")
    harness = Harness(engine, simulator, CXONE_ENRICH_ON_OUTAGE="send")
    harness.store.record(lacking("a"))
    assert harness.complete() == []
    (row,) = wait_until(harness.complete, "it is completed")
    assert row.customer_email == "learned@example.com"


def test_a_rate_limit_counts_against_no_interaction(engine: Engine, simulator: Simulator) -> None:
    """429 is about all requests, and CXone works."""
    simulator.behave("contact", "429:0")
    failures = FailureRecord(MaxJitter(), FailurePolicy(pause_seconds=60.0))
    harness = Harness(engine, simulator, failures=failures)
    harness.store.record(lacking("a"))
    assert harness.complete() == []
    assert simulator.requested_contacts()
    assert failures.may_retry("a")


def test_a_failure_pauses_all_requests(engine: Engine, simulator: Simulator) -> None:
    """Only those already begun are sent."""
    simulator.behave("contact", "500")
    throttle = Throttle(33, MaxJitter(), constant_backoff(60.0))
    harness = Harness(engine, simulator, throttle=throttle, RELAY_LEASE_SECONDS="3")
    harness.store.record(lacking(*(f"i-{number}" for number in range(20))))
    assert harness.complete() == []
    assert 1 <= len(simulator.requested_contacts()) <= 4


def test_no_request_is_sent_before_retry_after(engine: Engine, simulator: Simulator) -> None:
    """Neither a response to an earlier request nor a request already begun shortens it."""
    simulator.behave("contact", "slow:0.4", "429:2", "ok")
    harness = Harness(engine, simulator, CXONE_ENRICH_CONCURRENCY="3", CXONE_ENRICH_RATE="2")
    harness.store.record(lacking("a", "b", "c"))
    wait_until(lambda: len(harness.complete()) == 3, "all are completed")
    _, throttled, *later = [request.at for request in simulator.requests["contact"]]
    assert min(later) - throttled >= 1.9


def test_an_interaction_that_failed_pauses_while_others_are_requested(engine: Engine, simulator: Simulator) -> None:
    """It is not requested in each cycle, and its failures are forgotten once CXone answers for it."""
    now = [0.0]
    policy = FailurePolicy(pause_seconds=1.5, max_pause_seconds=1.5)
    failures = FailureRecord(MaxJitter(), policy, lambda: now[0])
    simulator.contacts = {"bad": 500}
    harness = Harness(engine, simulator, failures=failures)
    harness.store.record(lacking("bad", "good"))
    for _ in range(3):
        assert [row.interaction_id for row in harness.complete()] == ["good"]
    assert simulator.requested_contacts().count("bad") == 1
    assert not failures.may_retry("bad")
    simulator.contacts = {}
    now[0] = 1.5
    wait_until(lambda: len(harness.complete()) == 2, "it is requested again")
    assert failures.may_retry("bad")


def test_fields_are_stored_once(engine: Engine) -> None:
    """A row that was sent, completed or replaced in the meantime is left unchanged; existing values are kept."""
    store = Store(engine)
    store.record([new_row("a", customer_email=None), new_row("b", agent_id=None)])
    lease = Leases(engine, "me", 600).take(0)
    assert lease is not None
    first, second = store.pending(lease, 10)
    (learned,) = store.store_enrichment(
        [(first, EnrichedFields("x@y", "other")), (second._replace(nonce=second.nonce + 1), EnrichedFields("n", "n"))]
    )
    assert (learned.id, learned.customer_email, learned.agent_id) == (first.id, "x@y", "agent-7")
    assert store.store_enrichment([(first, EnrichedFields("again@y", None))]) == []
    stored, _ = store.pending(lease, 10)
    assert stored == learned
    mark(store, 1, [second.ref])
    assert store.store_enrichment([(second, EnrichedFields(None, "n"))]) == []
