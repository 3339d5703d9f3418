"""Inference calls, against an endpoint that fails in many ways, on both databases."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, text

from outbox.inference_queue import CLAIM_MS, WINDOW
from outbox.leases import Leases
from outbox.store import Store
from relay.drain_signal import DEFER_SECONDS, DrainSignal
from relay.errors import MisconfiguredError
from relay.health import Health
from relay.http_client import MAX_REQUEST_SECONDS, HttpClient
from relay.inference.circuit_breaker import CircuitState
from relay.inference.worker import InferenceWorker
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from relay.shard.services import ignore_steps
from testkit.deployment import Deployment
from testkit.outbox import record_ref
from testkit.rows import new_row
from testkit.simulator import Simulator
from testkit.waiting import wait_until


class Harness:
    """Inference workers in this process: everything of a relay but Kafka."""

    def __init__(self, engine: Engine, simulator: Simulator, **settings: str) -> None:
        self.engine, self.simulator = engine, simulator
        self.health, self.metrics = Health(), RelayMetrics(CollectorRegistry())
        self.drain_signal = DrainSignal()
        self._settings = settings
        self._workers: list[tuple[threading.Event, threading.Thread]] = []

    def start(
        self,
        owner: str = "me",
        *,
        circuit: CircuitState | None = None,
        max_call_seconds: float = MAX_REQUEST_SECONDS,
        step: Callable[[str, int], None] = ignore_steps,
    ) -> None:
        """Start a worker in a thread."""
        environ = {**self.simulator.inference, **self._settings}
        settings = RelaySettings.model_validate(
            {
                "kafka_bootstrap_servers": "none",
                "schema_registry_url": "http://none",
                **{name.lower(): value for name, value in environ.items()},
            }
        )
        stop = threading.Event()
        worker = InferenceWorker(
            settings, self.engine, owner, stop, self.health, self.metrics, self.drain_signal, step,
            circuit=circuit, max_call_seconds=max_call_seconds,
        )  # fmt: skip
        thread = threading.Thread(target=worker.run)
        thread.start()
        self._workers.append((stop, thread))

    def request_stop(self) -> None:
        """Ask the workers to stop, as SIGTERM does, without waiting."""
        for stop, _ in self._workers:
            stop.set()

    def stop(self) -> None:
        """Stop the workers, and wait for their end."""
        self.request_stop()
        for _, thread in self._workers:
            thread.join(30)
            assert not thread.is_alive()
        self._workers = []

    def make_due(self, *interactions: str) -> list[int]:
        """Record rows of these interactions and mark them sent; return their ids, which their calls have as well."""
        store = Store(self.engine)
        store.record([new_row(name) for name in interactions])
        lease = Leases(self.engine, "shard's", 600).take(0)
        assert lease is not None
        rows = store.pending(lease, 10_000)
        store.mark_sent(lease, record_ref(lease.acknowledged_sequence + 1), [row.ref for row in rows], inference=True)
        self.drain_signal.rows_sent(0, full_batch=False)
        return [row.id for row in rows]

    def states(self) -> dict[str, int]:
        """Number of calls in each state."""
        with self.engine.connect() as connection:
            found = connection.execute(text("SELECT state, count(*) FROM outbox_inference_call GROUP BY state"))
            return {row[0]: row[1] for row in found}

    def claimed(self) -> int:
        """Number of claimed calls."""
        with self.engine.connect() as connection:
            query = text("SELECT count(*) FROM outbox_inference_call WHERE claimed_by IS NOT NULL")
            return int(connection.execute(query).scalar_one())

    def value(self, column: str, row_id: int) -> object:
        """A column of a call."""
        with self.engine.connect() as connection:
            query = text(f"SELECT {column} FROM outbox_inference_call WHERE row_id = {row_id}")
            return connection.execute(query).scalar_one()

    def wait_for(self, **states: int) -> None:
        """Wait until the calls are in these states."""
        wait_until(lambda: self.states() == states, f"calls are {states}")

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


NewHarness = Callable[..., Harness]


@pytest.fixture
def new_harness(engine: Engine, simulator: Simulator) -> Iterator[NewHarness]:
    """Makes a harness whose workers are not started yet; stops them after the test."""
    made: list[Harness] = []

    def make(**settings: str) -> Harness:
        made.append(Harness(engine, simulator, **settings))
        return made[-1]

    yield make
    for harness in made:
        harness.stop()


def test_a_call_sends_the_documented_request(new_harness: NewHarness, simulator: Simulator) -> None:
    """With body, idempotency key, token and trace; status and latency are recorded."""
    simulator.behave("score", "slow:0.1")
    harness = new_harness(INFERENCE_TOKEN="canary-token")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    Store(harness.engine).record([new_row("ünï/1", timestamp_ms=5, traceparent=trace)])
    (row_id,) = harness.make_due()
    harness.start()
    harness.wait_for(done=1)
    (request,) = simulator.requests["score"]
    assert request.body == b'{"interactionId": "\\u00fcn\\u00ef/1", "timestamp": 5}'
    assert request.headers["Idempotency-Key"] == str(row_id)
    assert request.headers["Authorization"] == "Bearer canary-token"
    assert request.headers["traceparent"] == trace
    assert (harness.value("status", row_id), harness.value("attempts", row_id)) == (200, 1)
    latency_ms = harness.value("latency_ms", row_id)
    assert isinstance(latency_ms, int)
    assert 100 <= latency_ms < 60_000
    assert harness.metric("outbox_inference_calls_total", outcome="done") == 1
    assert 0.1 <= harness.metric("outbox_inference_call_seconds_sum") < 60


@pytest.mark.parametrize("behaviour", ["500", "408", "425", "429", "503", "drop", "503:0", "429@0"])
def test_a_temporary_failure_is_retried(new_harness: NewHarness, simulator: Simulator, behaviour: str) -> None:
    """With the same key, until it succeeds."""
    simulator.behave("score", behaviour, "ok")
    harness = new_harness()
    (row_id,) = harness.make_due("a")
    harness.start()
    harness.wait_for(done=1)
    assert simulator.scored_keys() == [row_id, row_id]
    assert harness.metric("outbox_inference_calls_total", outcome="retried") == 1
    reason = "ConnectionError" if behaviour == "drop" else f"HTTP {behaviour[:3]}"
    assert harness.metric("outbox_retries_total", stage="inference", reason=reason) == 1


@pytest.mark.parametrize("behaviour", ["400", "422", "redirect"])
def test_a_rejected_call_is_parked_and_blocks_no_other(
    new_harness: NewHarness, simulator: Simulator, behaviour: str
) -> None:
    """Later calls of its interaction are made; a redirect is a rejection."""
    simulator.behave("score", behaviour, "ok")
    harness = new_harness()
    first, second = harness.make_due("a", "a")
    harness.start()
    harness.wait_for(done=1, parked=1)
    assert simulator.scored_keys() == [first, second]
    assert harness.value("error", first) == f"HTTP {302 if behaviour == 'redirect' else behaviour}"
    assert not simulator.requests["redirected"]


def test_a_call_that_keeps_failing_is_parked(new_harness: NewHarness, simulator: Simulator) -> None:
    """After INFERENCE_MAX_ATTEMPTS, and before the next call of its interaction."""
    simulator.behave("score", "500", "500", "500", "ok")
    harness = new_harness(INFERENCE_MAX_ATTEMPTS="3")
    first, second = harness.make_due("a", "a")
    harness.start()
    harness.wait_for(done=1, parked=1)
    assert simulator.scored_keys() == [first, first, first, second]
    assert harness.value("attempts", first) == 3


def test_retry_after_holds_back_all_calls(new_harness: NewHarness, simulator: Simulator) -> None:
    """The circuit is open until then."""
    simulator.behave("score", "429:3", "ok")
    harness = new_harness(INFERENCE_CONCURRENCY="1")
    harness.make_due("a", "b", "c")
    harness.start()
    wait_until(lambda: harness.metric("outbox_inference_circuit_open") == 1, "the circuit is open")
    harness.wait_for(done=3)
    first, *others = [request.at for request in simulator.requests["score"]]
    assert min(others) - first >= 2.9
    assert harness.metric("outbox_inference_circuit_open") == 0


def test_the_status_decides_if_the_body_is_cut_off(new_harness: NewHarness, simulator: Simulator) -> None:
    """Each call is made once."""
    simulator.behave("score", "cut", "ok")
    harness = new_harness()
    ids = harness.make_due("a", "b", "c")
    harness.start()
    harness.wait_for(done=3)
    assert sorted(simulator.scored_keys()) == ids


def test_cookies_are_not_kept(simulator: Simulator) -> None:
    """A load balancer's cookie would send every call to one server, and others could fill the memory."""
    client = HttpClient(1)
    for _ in range(2):
        assert client.request("POST", f"{simulator.base}/score", json={}).status == 200
    assert not any("Cookie" in request.headers for request in simulator.requests["score"])


def test_a_slow_call_delays_no_other_interaction(new_harness: NewHarness, simulator: Simulator) -> None:
    """Only its own thread waits."""
    simulator.behave("score", "hang", "ok")
    harness = new_harness(INFERENCE_CONCURRENCY="2")
    harness.make_due(*(f"i-{number}" for number in range(50)))
    harness.start()
    harness.wait_for(done=49, due=1)  # before the slow one times out and is repeated
    simulator.release()


@pytest.mark.parametrize("behaviour", ["endless", "trickle"])
def test_a_response_without_end_is_cut_off(simulator: Simulator, behaviour: str) -> None:
    """Neither an endless body nor an endless header holds a thread beyond the total timeout."""
    simulator.behave("score", behaviour)
    began = time.monotonic()
    result = HttpClient(1, response_timeout_seconds=1.0).request("POST", f"{simulator.base}/score", json={})
    assert time.monotonic() - began < 8
    assert (result.status, result.body) == (200, None)


def test_two_workers_call_each_interaction_in_order(new_harness: NewHarness, simulator: Simulator) -> None:
    """Some calls fail and are repeated; none succeeds twice."""
    simulator.behave("score", *["ok"] * 7, "500", *["ok"] * 20, "drop", "ok")
    harness = new_harness()
    ids = harness.make_due(*(f"i-{number % 7}" for number in range(210)))
    harness.start("me")
    harness.start("other")
    harness.wait_for(done=210)
    scored = simulator.scored_keys()
    assert len(scored) == 212
    assert sorted(set(scored)) == ids
    for interaction in range(7):
        mine = [row_id for row_id in scored if (row_id - ids[0]) % 7 == interaction]
        assert mine == sorted(mine)


def test_an_outage_parks_no_calls(new_harness: NewHarness, simulator: Simulator) -> None:
    """However many calls fail: while the circuit is open, none is charged. All are made afterwards."""
    simulator.behave("score", "500")
    harness = new_harness(INFERENCE_MAX_ATTEMPTS="2", INFERENCE_CONCURRENCY="50")
    harness.make_due(*(f"i-{number}" for number in range(500)))
    harness.start()
    wait_until(lambda: harness.metric("outbox_inference_circuit_open") == 1, "the circuit is open")
    wait_until(
        lambda: "the endpoint is failing" in harness.health.conditions().get("inference", ""), "the condition is shown"
    )
    received = len(simulator.requests["score"])
    assert received <= 150  # far fewer than the calls that are due
    wait_until(lambda: len(simulator.requests["score"]) >= received + 2, "it probes", 60)
    simulator.behave("score", "ok")
    harness.wait_for(done=500)
    assert not harness.health.conditions()


def test_a_failed_probe_is_not_charged(new_harness: NewHarness, simulator: Simulator) -> None:
    """With a single attempt allowed, the call is not parked while the circuit is open."""
    simulator.behave("score", "500")
    harness = new_harness(INFERENCE_MAX_ATTEMPTS="1")
    harness.make_due("a")
    harness.start(circuit=CircuitState(pauses=1))
    wait_until(lambda: len(simulator.requests["score"]) >= 2, "it probes")
    assert harness.states() == {"due": 1}
    simulator.behave("score", "ok")
    harness.wait_for(done=1)


def test_while_the_circuit_is_open_only_a_probe_is_claimed(new_harness: NewHarness, simulator: Simulator) -> None:
    """None before the pause is over, then one call, however many are due."""
    simulator.behave("score", "500")
    harness = new_harness()
    harness.make_due(*(f"i-{number}" for number in range(100)))
    claimed = text("SELECT count(*) FROM outbox_inference_call WHERE claimed_by IS NOT NULL OR attempts > 0")

    def seen() -> int:
        with harness.engine.connect() as connection:
            return int(connection.execute(claimed).scalar_one())

    opened = time.monotonic() + 6
    harness.start(circuit=CircuitState(pauses=1, open_until=opened))
    wait_until(lambda: seen() or time.monotonic() > opened - 3, "much of the pause is over")
    assert seen() == 0
    wait_until(lambda: simulator.requests["score"], "it probes")
    probed = time.monotonic()
    wait_until(
        lambda: len(simulator.requests["score"]) > 1 or time.monotonic() > probed + 0.5, "time for more calls passes"
    )
    first, *later = [request.at for request in simulator.requests["score"]]
    # The next pause has at least two seconds; on a busy machine it may be over by now.
    assert all(at - first >= 1.9 for at in later)


def test_blocked_calls_do_not_hide_other_interactions(new_harness: NewHarness, simulator: Simulator) -> None:
    """However many calls of an interaction wait behind one that hangs, other interactions are called."""
    simulator.behave("score", "hang", "ok")
    harness = new_harness(INFERENCE_CONCURRENCY="2")
    *_, other = harness.make_due(*["a"] * (2 * WINDOW), "b")
    with harness.engine.begin() as connection:
        connection.execute(text("UPDATE outbox_inference_call SET due_at = 1 WHERE interaction_id = 'a'"))
    harness.start()
    wait_until(lambda: harness.value("state", other) == "done", "the other one is done")
    simulator.release()


def test_no_call_is_begun_whose_claim_could_expire(new_harness: NewHarness, simulator: Simulator) -> None:
    """By the time of its response it may be another relay's: it is given back, uncharged."""
    harness, recorded = new_harness(), threading.Event()
    first, second = harness.make_due("a", "a")
    harness.start(
        max_call_seconds=CLAIM_MS / 1000 + 1,
        step=lambda step, _: recorded.set() if step == "results_recorded" else None,
    )
    assert recorded.wait(30)
    harness.stop()
    assert simulator.scored_keys() == []
    assert harness.claimed() == 0
    assert [harness.value("attempts", row_id) for row_id in (first, second)] == [0, 0]


def test_a_caller_continues_after_an_unexpected_error(new_harness: NewHarness, simulator: Simulator) -> None:
    """Its batch is left to its claim's expiry, and makes room for another one."""
    harness = new_harness(INFERENCE_CONCURRENCY="1")
    harness.make_due("a", "b", "c")
    errors = iter([RuntimeError("unexpected")])

    def fail_once(step: str, _shard: int) -> None:
        if step == "called":
            for error in errors:
                raise error

    harness.start(step=fail_once)
    harness.wait_for(done=2, due=1)
    assert len(simulator.scored_keys()) == 3
    assert harness.claimed() == 1
    began = time.monotonic()
    harness.stop()
    assert time.monotonic() - began < 10, "it waits for a batch that has ended"


def test_a_stop_gives_back_untried_calls(new_harness: NewHarness, simulator: Simulator) -> None:
    """Calls in progress end; the others are due again at once, uncharged."""
    simulator.behave("score", "slow:5")  # longer than a busy machine takes to notice the two calls
    harness = new_harness(INFERENCE_CONCURRENCY="2")
    harness.make_due(*(f"i-{number}" for number in range(20)))
    harness.start()
    wait_until(lambda: len(simulator.requests["score"]) == 2, "two calls are under way")
    harness.stop()
    assert harness.states() == {"done": 2, "due": 18}
    assert harness.claimed() == 0


def test_calls_are_throttled_while_a_backlog_is_drained(new_harness: NewHarness, simulator: Simulator) -> None:
    """Four a second, not none."""
    harness = new_harness()
    harness.make_due(*(f"i-{number}" for number in range(300)))
    harness.drain_signal.rows_sent(0, full_batch=True)
    began = time.monotonic()
    harness.start()
    wait_until(lambda: len(simulator.requests["score"]) >= 6, "some calls are made")
    assert len(simulator.requests["score"]) <= 1 + 4 * (time.monotonic() - began)
    harness.drain_signal.caught_up(0)
    harness.wait_for(done=300)


def test_a_long_drain_gives_calls_their_share(new_harness: NewHarness, simulator: Simulator) -> None:
    """They are throttled at first, and run at full speed for a while in each minute."""
    now, harness = [0.0], new_harness()
    harness.drain_signal = DrainSignal(lambda: now[0])
    harness.make_due(*(f"i-{number}" for number in range(800)))
    harness.drain_signal.rows_sent(0, full_batch=True)
    harness.start()
    wait_until(lambda: len(simulator.requests["score"]) >= 3, "some calls are made")
    assert harness.states()["due"] > 700
    while now[0] < DEFER_SECONDS:
        now[0] += 1
        harness.drain_signal.rows_sent(0, full_batch=True)
        draining = harness.drain_signal.is_draining()
    assert not draining
    harness.wait_for(done=800)


def test_an_unexpected_error_does_not_end_the_worker(new_harness: NewHarness) -> None:
    """It is shown as a condition, and calls continue after a pause."""
    harness, failed, release = new_harness(), threading.Event(), threading.Event()

    def step(name: str, _shard: int) -> None:
        if name == "results_recorded" and not failed.is_set():
            failed.set()
            raise RuntimeError("unexpected")
        if name == "claimed" and failed.is_set():
            assert release.wait(60)

    harness.make_due("a", "b")
    harness.start(circuit=CircuitState(pauses=1), step=step)  # the probe is claimed alone, so "b" is claimed afterwards
    condition = "unexpected RuntimeError"
    wait_until(lambda: condition in harness.health.conditions().get("inference calls", ""), "the error is shown")
    release.set()
    harness.wait_for(done=2)
    wait_until(lambda: not harness.health.conditions(), "it has recovered")


def test_a_stop_gives_back_throttled_calls(new_harness: NewHarness, simulator: Simulator) -> None:
    """Calls that wait during a drain are not made any more."""
    harness = new_harness()
    harness.make_due(*(f"i-{number}" for number in range(20)))
    harness.drain_signal.rows_sent(0, full_batch=True)
    began = time.monotonic()
    harness.start()
    wait_until(lambda: len(simulator.requests["score"]) >= 1, "a call is made")
    harness.request_stop()
    allowed = 1 + 4 * (time.monotonic() - began)
    harness.stop()
    assert len(simulator.requests["score"]) <= allowed


def test_a_host_that_is_not_allowed_is_refused(new_harness: NewHarness) -> None:
    """At the start, before any call."""
    with pytest.raises(MisconfiguredError, match=r"127\.0\.0\.1, which is not in INFERENCE_ALLOWED_HOSTS"):
        new_harness(INFERENCE_ALLOWED_HOSTS="scoring.example, other.example").start()
    new_harness(INFERENCE_ALLOWED_HOSTS="scoring.example, 127.0.0.1").start()


def test_a_relay_calls_the_endpoint_for_each_row(deployment: Deployment, simulator: Simulator) -> None:
    """From the outbox through Kafka to the endpoint, once each."""
    ids = deployment.record([new_row(f"i-{number % 10}") for number in range(100)])
    deployment.environ.update(simulator.inference)
    deployment.relay()
    wait_until(lambda: len(simulator.scored_keys()) >= 100, "every call is made")
    assert sorted(simulator.scored_keys()) == ids


def test_a_failing_endpoint_is_shown_by_status(deployment: Deployment, simulator: Simulator) -> None:
    """The reason stands beside the shard until the endpoint recovers, without the token; rows still reach Kafka."""
    deployment.environ.update(simulator.inference)
    simulator.behave("score", "503:0")
    ids = deployment.record([new_row("a"), new_row("b")])
    relay = deployment.relay(RELAY_LEASE_SECONDS="3", INFERENCE_TOKEN="canary-token")
    condition = "inference: the endpoint is failing (HTTP 503)"
    wait_until(lambda: condition in (deployment.store.status()[0].condition or ""), "status shows it")
    assert "INFERENCE_URL" in relay.degraded()["inference"]
    deployment.check_exactly_once(ids)
    simulator.behave("score", "ok")
    wait_until(lambda: not relay.degraded() and not deployment.store.status()[0].condition, "it has recovered")
    assert set(simulator.scored_keys()) == set(ids)
    assert "canary" not in relay.log.read_text() + relay.get("/readyz") + relay.get("/metrics")


@pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)
def test_a_slow_count_delays_no_heartbeat(deployment: Deployment, simulator: Simulator) -> None:
    """While a count waits for a lock longer than a lease, the relay stays a live member."""
    deployment.environ.update(simulator.inference)
    deployment.relay(RELAY_LEASE_SECONDS="3")
    leases = Leases(deployment.engine, "observer", 3)

    def live() -> bool:
        return [member.live for member in leases.relays_and_shards()[0]] == [True]

    def counting() -> bool:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%min(%'"
        return bool(deployment.query(waiting))

    wait_until(live, "the relay is a member")
    with deployment.engine.begin() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(text("LOCK TABLE outbox_inference_call IN ACCESS EXCLUSIVE MODE"))
        wait_until(counting, "a count waits")
        until = time.monotonic() + 4
        wait_until(lambda: not live() or time.monotonic() > until, "more than a lease passes")
        assert live()
