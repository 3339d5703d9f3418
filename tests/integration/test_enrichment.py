"""Rows completed from CXone before they are sent, on both databases, and CXone's moods."""

import io
import json
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs

import fastavro
import pytest
import trustme
from prometheus_client import CollectorRegistry

from outbox.leases import Leases
from outbox.models import EnrichedFields, PendingRow
from outbox.store import Store
from relay.enrichment.enricher import Enricher
from relay.enrichment.oauth import TokenError, Tokens, fetch_token
from relay.health import Health
from relay.kafka.avro import SCHEMA_TEXT
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from testkit.deployment import Deployment
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
    """A world whose relays complete rows from the simulator."""
    deployment.environ.update(simulator.enrichment)
    return deployment


def values(deployment: Deployment) -> list[tuple[str, str | None, str | None]]:
    """Interaction, e-mail and agent of each record of the topic, in the order of the rows."""
    found = []
    for record in sorted(deployment.seen(), key=lambda each: each.outbox_id):
        value: Any = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), _SCHEMA, None)
        found.append((value["interactionId"], value["customerEmail"], value["agentId"]))
    return found


def lacking(*interactions: str, **further: Any) -> list[Any]:
    """Rows without e-mail and agent."""
    return [new_row(name, customer_email=None, agent_id=None, **further) for name in interactions]


def test_what_a_row_lacks_is_learned_once_and_stored(enriched: Deployment, simulator: Simulator) -> None:
    """Each interaction is asked for once; what the row has stays; nothing known is known as well."""
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
    assert sorted(simulator.asked()) == ["a ü=", "empty", "half", "none"]
    assert {request.path for request in simulator.requests["contact"]} >= {"/contacts/a%20%C3%BC%3D"}
    assert enriched.query(ENRICHED) == [(5,)]
    assert len(simulator.requests["token"]) == 1


def test_services_with_certificates_of_their_own_authority(deployment: Deployment, tmp_path: Path) -> None:
    """HTTP_CA_LOCATION: OAuth, CXone and scoring are refused until it names their authority, and work then."""
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
        wait_until(lambda: simulator.scored() == ids, "it is scored")


def test_a_token_that_is_refused_is_renewed_once(enriched: Deployment, simulator: Simulator) -> None:
    """Revoked under the relay's hands: another one is fetched, for all; what CXone answers 401 to is asked again."""
    enriched.relay()
    enriched.record(lacking("a"))
    enriched.wait_drained()
    simulator.tokens.clear()
    enriched.record(lacking(*(f"i-{number}" for number in range(8))))
    enriched.wait_drained()
    assert len(simulator.requests["token"]) == 2
    assert {email for _, email, _ in values(enriched)} == {"learned@example.com"}


def test_while_cxone_is_down_rows_wait_and_those_of_other_interactions_go(
    enriched: Deployment, simulator: Simulator
) -> None:
    """The lease is kept meanwhile, the condition is in sight, and order per interaction holds."""
    simulator.behave("contact", "hang")
    relay = enriched.relay(RELAY_LEASE_SECONDS="3")
    whole = [new_row("waits"), new_row("goes")]
    ids = enriched.record([*lacking("waits"), *whole])
    wait_until(lambda: enriched.pending() == 2, "the complete row of another interaction is sent")
    epoch = enriched.store.status()[0].epoch
    relay.wait_degraded("enrichment", "CXone does not answer")
    told = "enrichment: CXone does not answer"
    wait_until(lambda: told in (enriched.store.status()[0].condition or ""), "status tells")
    assert enriched.store.status()[0].epoch == epoch
    simulator.behave("contact", "ok")
    simulator.let_go()
    enriched.wait_drained()
    enriched.check_exactly_once(ids)
    wait_until(lambda: not relay.degraded() and not enriched.store.status()[0].condition, "all is well again")


def test_with_the_other_setting_rows_are_sent_without(enriched: Deployment, simulator: Simulator) -> None:
    """CXONE_ENRICH_ON_OUTAGE=send: once CXone stays down, be it with a Retry-After, rows go as they are."""
    simulator.behave("contact", "503:300")
    ids = enriched.record(lacking("a", "b"))
    enriched.relay(CXONE_ENRICH_ON_OUTAGE="send")
    enriched.wait_drained()
    enriched.check_exactly_once(ids)
    assert {email for _, email, _ in values(enriched)} == {None}
    assert enriched.query(ENRICHED) == [(0,)]


def impatient(deployment: Deployment, **environ: str) -> RelayProcess:
    """A relay that gives an interaction up after two failures that count, and rests but a moment between them."""
    process = RelayProcess(
        {**deployment.environ, **environ}, deployment.folder / "impatient.log", entry=("testkit.hasty_relay",)
    )
    deployment.relays.append(process)
    return process


def others_pass_until(deployment: Deployment, condition: Callable[[], object], what: str) -> list[int]:
    """Rows of other interactions come and are completed meanwhile; their ids."""
    ids: list[int] = []

    def passed() -> object:
        ids.extend(deployment.record(lacking(f"other-{len(ids)}")))
        last = ids[-1]
        wait_until(lambda: deployment.query(f"SELECT state FROM outbox WHERE id = {last}") == [("sent",)], "it is sent")
        return condition()

    wait_until(passed, what)
    return ids


def test_a_row_that_cxone_fails_on_alone_is_parked(enriched: Deployment, simulator: Simulator) -> None:
    """While others are told of: it is parked with the reason, those behind it wait, a retry asks again."""
    simulator.contacts = {"bad": 500}
    bad, *behind = enriched.record([*lacking("bad"), new_row("bad")])
    relay = impatient(enriched)
    parked = "SELECT error FROM outbox WHERE state = 'parked'"
    others = others_pass_until(enriched, lambda: enriched.query(parked), "it is parked")
    ((error,),) = enriched.query(parked)
    assert "CXone failed 2 times for this interaction and told of others meanwhile" in error
    assert "HTTP 500" in error
    assert [shard.waiting for shard in enriched.store.status()] == [1]
    wait_until(lambda: not relay.degraded(), "nothing waits for CXone")
    asked = simulator.asked().count("bad")
    enriched.execute(f"UPDATE outbox SET state = 'pending', error = NULL WHERE id = {bad}")
    wait_until(lambda: simulator.asked().count("bad") > asked, "it is asked for again")
    simulator.contacts = {}
    enriched.wait_drained()
    enriched.check_exactly_once([bad, *behind, *others])
    assert all(email for _, email, _ in values(enriched))


def test_while_cxone_fails_on_everything_nothing_is_parked(enriched: Deployment, simulator: Simulator) -> None:
    """However often it is asked: only what others succeed beside counts."""
    ids = enriched.record(lacking("before"))
    impatient(enriched)
    enriched.wait_drained()
    simulator.behave("contact", "500")
    ids += enriched.record(lacking("a"))
    wait_until(lambda: simulator.asked().count("a") >= 4, "it fails more often than alone it might")
    simulator.behave("contact", "ok")
    enriched.wait_drained()
    enriched.check_exactly_once(ids)


def test_with_the_other_setting_a_row_that_cxone_fails_on_alone_goes(
    enriched: Deployment, simulator: Simulator
) -> None:
    """CXONE_ENRICH_ON_OUTAGE=send: it goes as it is though CXone is not down, and those behind it unasked."""
    simulator.contacts = {"bad": 500}
    ids = enriched.record([*lacking("bad"), new_row("bad")])
    impatient(enriched, CXONE_ENRICH_ON_OUTAGE="send")
    sent = "SELECT count(*) FROM outbox WHERE state = 'sent' AND interaction_id = 'bad'"
    ids += others_pass_until(enriched, lambda: enriched.query(sent) == [(2,)], "they are sent")
    asked = simulator.asked().count("bad")
    ids += enriched.record(lacking("bad"))
    enriched.wait_drained()
    assert simulator.asked().count("bad") == asked
    enriched.check_exactly_once(ids)
    found = values(enriched)
    assert (found[0], found[-1]) == (("bad", None, None), ("bad", None, None))
    assert all(email for _, email, _ in found[1:-1])


def test_429_is_honoured(enriched: Deployment, simulator: Simulator) -> None:
    """Nobody asks again before the time is over."""
    simulator.behave("contact", "429:3", "ok")
    enriched.record(lacking("a", "b", "c"))
    relay = enriched.relay(CXONE_ENRICH_CONCURRENCY="1")
    relay.wait_degraded("enrichment", "less often")
    enriched.wait_drained()
    first, *others = [request.at for request in simulator.requests["contact"]]
    assert min(others) - first >= 2.9


def test_the_rate_is_kept(enriched: Deployment, simulator: Simulator) -> None:
    """CXONE_ENRICH_RATE holds for all shards together, after a burst of a second."""
    enriched.record(lacking(*(f"i-{number}" for number in range(15))))
    enriched.relay(CXONE_ENRICH_RATE="5")
    enriched.wait_drained()
    times = sorted(request.at for request in simulator.requests["contact"])
    assert len(times) == 15
    assert times[-1] - times[0] >= 1.5


def refused(relay: RelayProcess, text: str) -> None:
    """The relay says so, and neither log nor answer holds a secret, though CXone echoes it."""
    relay.wait_degraded("enrichment", text)
    assert SECRET not in relay.log.read_text() + relay.get("/readyz") + relay.get("/metrics")


def test_wrong_credentials_and_a_missing_scope_are_told(enriched: Deployment, simulator: Simulator) -> None:
    """Lasting errors: rows wait, the cure is named, and the token endpoint is not hammered."""
    enriched.record(lacking("a"))
    relay = enriched.relay(CXONE_CLIENT_ID="wrong")
    refused(relay, "the credentials are invalid or expired: check CXONE_CLIENT_ID and CXONE_CLIENT_SECRET")
    assert 'outbox_token_refreshes_total{outcome="invalid_credentials"}' in relay.get("/metrics")
    came, began = len(simulator.requests["token"]), time.monotonic()
    wait_until(lambda: len(simulator.requests["token"]) > came + 1, "it asks again")
    assert len(simulator.requests["token"]) - came < 5 * (time.monotonic() - began) + 5
    relay.stop()
    simulator.behave("contact", "403")
    refused(enriched.relay(), "the client lacks scope interaction:read")
    assert enriched.pending() == 1


def settings(simulator: Simulator, **further: str) -> RelaySettings:
    """The relay's settings, for those who only want a token."""
    given = {
        **simulator.enrichment,
        "KAFKA_BOOTSTRAP_SERVERS": "x",
        "SCHEMA_REGISTRY_URL": "http://x",
        **further,
    }
    return RelaySettings.model_validate({name.lower(): value for name, value in given.items()})


def refusal(simulator: Simulator, **further: str) -> str:
    """Why there is no token."""
    with pytest.raises(TokenError) as caught:
        fetch_token(settings(simulator, **further))
    return str(caught.value)


def test_a_token_is_fetched_for_both_grants(simulator: Simulator) -> None:
    """For a diagnosis: one comes, or what is wrong; no secret in it, whatever the endpoint answers."""
    keys = {"CXONE_ACCESS_KEY_ID": ACCESS_KEY, "CXONE_ACCESS_KEY_SECRET": ACCESS_SECRET}
    password = {"CXONE_OAUTH_GRANT": "password", **keys}
    assert fetch_token(settings(simulator)) == "token-1"
    assert fetch_token(settings(simulator, **password)) == "token-2"
    forms = [parse_qs(request.body.decode()) for request in simulator.requests["token"]]
    assert forms[0] == {"grant_type": ["client_credentials"], "scope": ["interaction:read"]}
    assert forms[1]["grant_type"] == ["password"]
    wrong = refusal(simulator, **{**password, "CXONE_ACCESS_KEY_SECRET": "canary"})
    assert "CXONE_ACCESS_KEY_SECRET" in wrong
    assert "canary" not in wrong
    for behaviour, told in [
        ("403", "lacks scope"),
        ("404", "check that it is the token endpoint"),
        ("cut", "without an access_token"),
        ("redirect", "check that it is the token endpoint"),
        ("500", "asked again later"),
        ("429", "429"),
        ("drop", "ConnectionError"),
    ]:
        simulator.behave("token", behaviour)
        assert told in refusal(simulator), behaviour


def test_many_threads_fetch_one_token(simulator: Simulator) -> None:
    """Single flight: whoever comes while it is fetched waits for it; it is renewed before it expires."""
    from concurrent.futures import ThreadPoolExecutor

    simulator.behave("token", "slow:0.3")
    simulator.token_seconds = 4.0
    tokens = Tokens(settings(simulator), Random(1))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: tokens.get(), range(32))) == {"token-1"}
        assert set(pool.map(lambda _: tokens.get("token-1"), range(8))) == {"token-2"}
    wait_until(lambda: tokens.get() == "token-3", "it is renewed after half of its time")
    _, second, third = simulator.requests["token"]
    assert third.at - second.at < 3.8


def test_the_token_endpoint_is_left_alone_as_long_as_it_asks_for(simulator: Simulator) -> None:
    """429 with Retry-After: whoever wants a token meanwhile is told so without a request."""
    simulator.behave("token", "429:2", "ok")
    tokens = Tokens(settings(simulator), Random(1))

    def got() -> str | None:
        try:
            return tokens.get()
        except TokenError:
            return None

    assert wait_until(got, "it gives a token") == "token-2"
    first, second = simulator.requests["token"]
    assert second.at - first.at >= 1.9


class Completing:
    """Rows of one shard, and what completes them, in this process."""

    def __init__(self, store: Store, simulator: Simulator, **further: str) -> None:
        self._store, self._lease = store, Leases(store._engine, "me", 600).take(0)
        self.stop, self._metrics = threading.Event(), RelayMetrics(CollectorRegistry())
        self.enricher = Enricher(settings(simulator, **further), store, self.stop, Health(), self._metrics)

    def enrichment_skipped(self) -> float | None:
        """Interactions counted as not asked for."""
        return self._metrics.registry.get_sample_value("outbox_enrichment_not_asked_total")

    def complete(self) -> list[PendingRow]:
        """What may be sent of what is pending."""
        assert self._lease is not None
        return self.enricher.complete(self._store.pending(self._lease, 5_000))


def test_few_are_asked_for_at_once_and_a_cycle_waits_for_two_seconds(store: Store, simulator: Simulator) -> None:
    """However many wait: CXONE_ENRICH_CONCURRENCY requests are under way, and none is made twice."""
    simulator.behave("contact", "hang")
    store.record(lacking(*(f"i-{number}" for number in range(500))))
    completing = Completing(store, simulator, CXONE_ENRICH_CONCURRENCY="3")
    for _ in range(2):
        began = time.monotonic()
        assert completing.complete() == []
        assert 1.9 < time.monotonic() - began < 8
    assert sorted(simulator.asked()) == ["i-0", "i-1", "i-2"]
    assert len(completing.enricher._asking) == 3  # nor does anything queue up behind them
    _, left = completing.enricher._known_and_left(["new", "i-2"])
    assert list(left) == ["i-2", "new"]  # their answers are waited for first
    simulator.let_go()


NAMES_ANOTHER_RESOURCE = (
    *(".", "..", " . ", "..."),
    *("../admin", "a/../b", "a/b", "/a", "a/", "a//b", "a\\b", "..\\a"),
    *("%2e%2e", "%2E", "%252e%252e", "a%2fb", "%", "..;", "a;b=c", "a?b", "a#b"),
    *("\uff0e\uff0e", "a\uff0fb", "\u2025", "a\u2044..\u2044b\uff3c", ".\u200b.", "..\t", "a\nb", ".\x7f."),
)


def test_what_may_name_another_resource_is_not_asked_for(store: Store, simulator: Simulator) -> None:
    """Who writes an id does not choose what our token is shown to. The row is sent as it is; nobody asks twice."""
    store.record(lacking(*NAMES_ANOTHER_RESOURCE))
    completing = Completing(store, simulator)
    sent = completing.complete()
    assert [row.interaction_id for row in sent] == list(NAMES_ANOTHER_RESOURCE)
    assert not simulator.requests["contact"]
    assert not simulator.requests["token"]
    assert not any(row.incomplete for row in sent)
    assert completing.enrichment_skipped() == len(NAMES_ANOTHER_RESOURCE)


def test_an_unusual_id_is_asked_for_as_one_segment(store: Store, simulator: Simulator) -> None:
    """Whatever leads nowhere else is percent-encoded, and found."""
    ids = ["a:b@c", "==", "+&,'", "ü \U0001f600", "..a", "a..b", "~-_.x", "1 2"]
    store.record(lacking(*ids))
    completing = Completing(store, simulator)
    wait_until(lambda: len(completing.complete()) == len(ids), "each is completed")
    assert sorted(simulator.asked()) == sorted(ids)


def test_a_short_failure_sends_nothing_without(store: Store, simulator: Simulator) -> None:
    """CXONE_ENRICH_ON_OUTAGE=send means an outage, not one answer that was none."""
    simulator.behave("contact", "500", "ok")
    store.record(lacking("a"))
    completing = Completing(store, simulator, CXONE_ENRICH_ON_OUTAGE="send")
    assert completing.complete() == []
    (row,) = wait_until(completing.complete, "it is completed")
    assert row.customer_email == "learned@example.com"
    assert completing.enricher._failing_since == float("inf")  # the next failure is not added to this one


def test_being_asked_to_come_later_counts_against_nobody(store: Store, simulator: Simulator) -> None:
    """429 is about all requests; CXone works."""
    simulator.behave("contact", "429:0")
    store.record(lacking("a"))
    completing = Completing(store, simulator)
    assert completing.complete() == []
    assert not completing.enricher._failing


def test_a_failure_begins_a_pause_for_all(store: Store, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """CXone that fails is left alone: only what was under way goes on."""
    monkeypatch.setattr("relay.backoff.jittered", lambda *_: 60.0)
    simulator.behave("contact", "500")
    store.record(lacking(*(f"i-{number}" for number in range(20))))
    assert Completing(store, simulator, RELAY_LEASE_SECONDS="3").complete() == []
    assert 1 <= len(simulator.asked()) <= 4


def test_nobody_asks_before_retry_after_whatever_was_under_way(store: Store, simulator: Simulator) -> None:
    """Neither an answer to an earlier request nor one that has its turn by now ends the time that CXone asked for."""
    simulator.behave("contact", "slow:0.4", "429:2", "ok")
    store.record(lacking("a", "b", "c"))
    completing = Completing(store, simulator, CXONE_ENRICH_CONCURRENCY="3", CXONE_ENRICH_RATE="2")
    wait_until(lambda: len(completing.complete()) == 3, "all are completed")
    _, throttled, *later = [request.at for request in simulator.requests["contact"]]
    assert min(later) - throttled >= 1.9


def test_an_interaction_that_failed_rests_while_others_are_asked_for(
    store: Store, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the first to be asked for in each cycle, and it is forgotten once CXone tells of it."""
    monkeypatch.setattr("relay.enrichment.enricher.jittered", lambda *_: 1.5)
    simulator.contacts = {"bad": 500}
    store.record(lacking("bad", "good"))
    completing = Completing(store, simulator)
    for _ in range(3):
        assert [row.interaction_id for row in completing.complete()] == ["good"]
    assert simulator.asked().count("bad") <= 2
    simulator.contacts = {}
    wait_until(lambda: len(completing.complete()) == 2, "it is asked for again")
    assert not completing.enricher._failing


def test_learning_names_the_row_and_is_done_once(store: Store) -> None:
    """A row that was sent, completed, or replaced meanwhile is left alone; what it has stays."""
    store.record([new_row("a", customer_email=None), new_row("b", agent_id=None)])
    lease = Leases(store._engine, "me", 600).take(0)
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
