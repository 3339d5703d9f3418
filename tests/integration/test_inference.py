"""The call after the commit, against an endpoint that misbehaves, on both databases."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, text

from outbox.inference_queue import WINDOW, InferenceQueue
from outbox.leases import Leases
from outbox.models import InferenceCall
from outbox.store import Store
from relay.drain_signal import DEFER_SECONDS, DrainSignal
from relay.errors import MisconfiguredError
from relay.health import Health
from relay.http_client import HttpResult
from relay.inference.circuit_breaker import CircuitBreaker
from relay.inference.worker import Finished, InferenceWorker, Run
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from relay.shard.services import ignore_steps
from testkit.deployment import Deployment
from testkit.outbox import record_ref
from testkit.rows import new_row
from testkit.simulator import Simulator
from testkit.waiting import wait_until


class Stage:
    """The inference stage alone, in this process: everything of a relay but Kafka."""

    def __init__(self, engine: Engine, simulator: Simulator, **settings: str) -> None:
        self.engine, self.simulator = engine, simulator
        self.health, self.metrics = Health(), RelayMetrics(CollectorRegistry())
        self.drain_signal = DrainSignal()
        self._settings = settings
        self._workers: list[tuple[threading.Event, threading.Thread]] = []

    def start(self, owner: str = "me", circuit: CircuitBreaker | None = None) -> None:
        """A relay's inference stage; its circuit is closed unless given."""
        stop = threading.Event()
        worker = self.worker(owner, stop)
        worker._circuit = circuit or CircuitBreaker()
        thread = threading.Thread(target=worker.run)
        thread.start()
        self._workers.append((stop, thread))

    def worker(self, owner: str, stop: threading.Event) -> InferenceWorker:
        """The stage itself, not started."""
        given = {**self.simulator.inference, **self._settings}
        settings = RelaySettings.model_validate(
            {
                "kafka_bootstrap_servers": "none",
                "schema_registry_url": "http://none",
                **{name.lower(): value for name, value in given.items()},
            }
        )
        return InferenceWorker(
            settings, self.engine, owner, stop, self.health, self.metrics, self.drain_signal, ignore_steps
        )  # fmt: skip

    def stop(self) -> None:
        """As at SIGTERM."""
        for stop, _ in self._workers:
            stop.set()
        for _, thread in self._workers:
            thread.join(30)
            assert not thread.is_alive()
        self._workers = []

    def make_due(self, *interactions: str) -> list[int]:
        """Sent rows of these interactions; their ids, which their calls have."""
        store = Store(self.engine)
        store.record([new_row(name) for name in interactions])
        lease = Leases(self.engine, "shard's", 600).take(0)
        assert lease is not None
        rows = store.pending(lease, 10_000)
        store.mark_sent(lease, record_ref(lease.acknowledged_sequence + 1), [row.ref for row in rows], inference=True)
        self.drain_signal.rows_sent(0, full_batch=False)
        return [row.id for row in rows]

    def states(self) -> dict[str, int]:
        """Calls by state."""
        with self.engine.connect() as connection:
            found = connection.execute(text("SELECT state, count(*) FROM outbox_inference_call GROUP BY state"))
            return {row[0]: row[1] for row in found}

    def value(self, column: str, row_id: int) -> object:
        """A column of a call."""
        with self.engine.connect() as connection:
            query = text(f"SELECT {column} FROM outbox_inference_call WHERE row_id = {row_id}")
            return connection.execute(query).scalar_one()

    def wait_for(self, **states: int) -> None:
        """Wait until the calls are in these states."""
        wait_until(lambda: self.states() == states, f"calls are {states}")

    def gauge(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


NewStage = Callable[..., Stage]


@pytest.fixture
def new_stage(engine: Engine, simulator: Simulator) -> Iterator[NewStage]:
    """Makes a stage, not yet started; ends it with the test."""
    made: list[Stage] = []

    def make(**settings: str) -> Stage:
        made.append(Stage(engine, simulator, **settings))
        return made[-1]

    yield make
    for stage in made:
        stage.stop()


def test_each_call_carries_what_the_contract_says(new_stage: NewStage, simulator: Simulator) -> None:
    """Body, key, token and trace; one call each, settled with status and latency."""
    simulator.behave("score", "slow:0.1")
    stage = new_stage(INFERENCE_TOKEN="canary-token")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    Store(stage.engine).record([new_row("ünï/1", timestamp_ms=5, traceparent=trace)])
    (row_id,) = stage.make_due()
    stage.start()
    stage.wait_for(done=1)
    (request,) = simulator.requests["score"]
    assert request.body == b'{"interactionId": "\\u00fcn\\u00ef/1", "timestamp": 5}'
    assert request.headers["Idempotency-Key"] == str(row_id)
    assert request.headers["Authorization"] == "Bearer canary-token"
    assert request.headers["traceparent"] == trace
    assert (stage.value("status", row_id), stage.value("attempts", row_id)) == (200, 1)
    latency_ms = stage.value("latency_ms", row_id)
    assert isinstance(latency_ms, int)
    assert 100 <= latency_ms < 60_000
    assert stage.gauge("outbox_inference_calls_total", outcome="done") == 1


@pytest.mark.parametrize("behaviour", ["500", "408", "425", "429", "503", "drop", "503:0", "429@0"])
def test_what_may_pass_is_tried_again(new_stage: NewStage, simulator: Simulator, behaviour: str) -> None:
    """The same call, with the same key, until it is done."""
    simulator.behave("score", behaviour, "ok")
    stage = new_stage()
    (row_id,) = stage.make_due("a")
    stage.start()
    stage.wait_for(done=1)
    assert simulator.scored() == [row_id, row_id]
    assert stage.gauge("outbox_inference_calls_total", outcome="retried") == 1
    reason = "ConnectionError" if behaviour == "drop" else f"HTTP {behaviour[:3]}"
    assert stage.gauge("outbox_retries_total", stage="inference", reason=reason) == 1


@pytest.mark.parametrize("behaviour", ["400", "422", "redirect"])
def test_a_final_answer_parks_at_once_and_blocks_nobody(
    new_stage: NewStage, simulator: Simulator, behaviour: str
) -> None:
    """Later calls of the interaction go on; a redirect is not followed."""
    simulator.behave("score", behaviour, "ok")
    stage = new_stage()
    first, second = stage.make_due("a", "a")
    stage.start()
    stage.wait_for(done=1, parked=1)
    assert simulator.scored() == [first, second]
    assert stage.value("error", first) == f"HTTP {302 if behaviour == 'redirect' else behaviour}"
    assert not simulator.requests["redirected"]


def test_a_call_that_keeps_failing_is_parked_after_the_attempts(new_stage: NewStage, simulator: Simulator) -> None:
    """INFERENCE_MAX_ATTEMPTS counts, and the next call of the interaction comes after that."""
    simulator.behave("score", "500", "500", "500", "ok")
    stage = new_stage(INFERENCE_MAX_ATTEMPTS="3")
    first, second = stage.make_due("a", "a")
    stage.start()
    stage.wait_for(done=1, parked=1)
    assert simulator.scored() == [first, first, first, second]
    assert stage.value("attempts", first) == 3


def test_retry_after_is_waited_for_by_everybody(new_stage: NewStage, simulator: Simulator) -> None:
    """Whoever is asked to come later leaves the endpoint alone, for all calls; the circuit shows it."""
    simulator.behave("score", "429:3", "ok")
    stage = new_stage(INFERENCE_CONCURRENCY="1")
    stage.make_due("a", "b", "c")
    stage.start()
    wait_until(lambda: stage.gauge("outbox_inference_circuit_open") == 1, "the circuit is open")
    stage.wait_for(done=3)
    first, *others = [request.at for request in simulator.requests["score"]]
    assert min(others) - first >= 2.9
    assert stage.gauge("outbox_inference_circuit_open") == 0


def test_an_answer_that_breaks_off_after_its_status_stops_nobody(new_stage: NewStage, simulator: Simulator) -> None:
    """The status decides, whatever becomes of the rest of the answer; each call is made once."""
    simulator.behave("score", "cut", "ok")
    stage = new_stage()
    ids = stage.make_due("a", "b", "c")
    stage.start()
    stage.wait_for(done=3)
    assert sorted(simulator.scored()) == ids


def test_cookies_are_not_kept(simulator: Simulator) -> None:
    """A balancer's cookie would bring every call to one server, and an endpoint could fill the memory with others."""
    from relay.http_client import Client

    client = Client(1)
    for _ in range(2):
        assert client.request("POST", f"{simulator.base}/score", json={}).status == 200
    assert not any("Cookie" in request.headers for request in simulator.requests["score"])


def test_a_slow_call_holds_up_no_other_interaction(new_stage: NewStage, simulator: Simulator) -> None:
    """Its thread waits, the others go on: there is no round whose slowest call all wait for."""
    simulator.behave("score", "hang", "ok")
    stage = new_stage(INFERENCE_CONCURRENCY="2")
    stage.make_due(*(f"i-{number}" for number in range(50)))
    stage.start()
    stage.wait_for(done=49, due=1)  # before the slow one is given up and tried again
    simulator.let_go()


@pytest.mark.parametrize("behaviour", ["endless", "trickle"])
def test_an_answer_without_end_is_cut_off(simulator: Simulator, behaviour: str) -> None:
    """Neither a body nor a head that goes on and on holds a thread longer than a whole answer may take."""
    from relay.http_client import Client

    simulator.behave("score", behaviour)
    began = time.monotonic()
    answer = Client(1, answer_seconds=1.0).request("POST", f"{simulator.base}/score", json={})
    assert time.monotonic() - began < 8
    assert (answer.status, answer.body) == (200, None)


def test_order_holds_within_an_interaction_and_nothing_is_called_twice(
    new_stage: NewStage, simulator: Simulator
) -> None:
    """Two relays share the calls of a few interactions, of which some fail: each key in order, once done."""
    simulator.behave("score", *["ok"] * 7, "500", *["ok"] * 20, "drop", "ok")
    stage = new_stage()
    ids = stage.make_due(*(f"i-{number % 7}" for number in range(210)))
    stage.start("me")
    stage.start("other")
    stage.wait_for(done=210)
    scored = simulator.scored()
    assert len(scored) == 212
    assert sorted(set(scored)) == ids
    for interaction in range(7):
        mine = [row_id for row_id in scored if (row_id - ids[0]) % 7 == interaction]
        assert mine == sorted(mine)


def test_an_outage_parks_nothing_and_every_call_arrives_afterwards(new_stage: NewStage, simulator: Simulator) -> None:
    """Far more failures than INFERENCE_MAX_ATTEMPTS allows: while the circuit is open, none counts."""
    simulator.behave("score", "500")
    stage = new_stage(INFERENCE_MAX_ATTEMPTS="2", INFERENCE_CONCURRENCY="50")
    stage.make_due(*(f"i-{number}" for number in range(500)))
    stage.start()
    wait_until(lambda: stage.gauge("outbox_inference_circuit_open") == 1, "the circuit is open")
    wait_until(lambda: "the endpoint fails" in stage.health.conditions().get("inference", ""), "it says so")
    came = len(simulator.requests["score"])
    assert came <= 150  # not every call had to find out
    wait_until(lambda: len(simulator.requests["score"]) >= came + 2, "it probes", 60)
    simulator.behave("score", "ok")
    stage.wait_for(done=500)
    assert not stage.health.conditions()


def test_a_probe_that_fails_is_not_charged(new_stage: NewStage, simulator: Simulator) -> None:
    """One attempt is allowed, yet the call is not parked while the circuit is open."""
    simulator.behave("score", "500")
    stage = new_stage(INFERENCE_MAX_ATTEMPTS="1")
    stage.make_due("a")
    stage.start(circuit=CircuitBreaker(opened=1))
    wait_until(lambda: len(simulator.requests["score"]) >= 2, "it probes")
    assert stage.states() == {"due": 1}
    simulator.behave("score", "ok")
    stage.wait_for(done=1)


def test_one_call_probes_and_nothing_else_is_claimed(new_stage: NewStage, simulator: Simulator) -> None:
    """While the circuit is open: nothing before its time, then one call, however many are due."""
    simulator.behave("score", "500")
    stage = new_stage()
    stage.make_due(*(f"i-{number}" for number in range(100)))
    claimed = text("SELECT count(*) FROM outbox_inference_call WHERE claimed_by IS NOT NULL OR attempts > 0")

    def seen() -> int:
        with stage.engine.connect() as connection:
            return int(connection.execute(claimed).scalar_one())

    opened = time.monotonic() + 1.5
    stage.start(circuit=CircuitBreaker(opened=1, open_until=opened))
    wait_until(lambda: seen() or time.monotonic() > opened - 0.3, "its time nearly comes")
    assert seen() == 0
    wait_until(lambda: simulator.requests["score"], "it probes")
    probed = time.monotonic()
    wait_until(lambda: len(simulator.requests["score"]) > 1 or time.monotonic() > probed + 0.5, "a while passes")
    assert len(simulator.requests["score"]) == 1


def test_calls_that_stand_behind_others_hide_nobody(new_stage: NewStage, simulator: Simulator) -> None:
    """However many of one interaction are due by time, and its first one hangs: another interaction is called."""
    simulator.behave("score", "hang", "ok")
    stage = new_stage(INFERENCE_CONCURRENCY="2")
    *_, other = stage.make_due(*["a"] * (2 * WINDOW), "b")
    with stage.engine.begin() as connection:
        connection.execute(text("UPDATE outbox_inference_call SET due_at = 1 WHERE interaction_id = 'a'"))
    stage.start()
    wait_until(lambda: stage.value("state", other) == "done", "the other one is done")
    simulator.let_go()


def test_a_run_whose_claim_could_run_out_is_given_back(new_stage: NewStage, simulator: Simulator) -> None:
    """Its calls may be another relay's by the time they are answered: none is begun."""
    stage = new_stage()
    worker = stage.worker("me", threading.Event())
    call = InferenceCall(1, "a", 1, None, 0, 1)
    worker._call_run(Run([call, call], time.monotonic() - 1, probe=False))
    results, ended = worker._tried.get_nowait()
    assert [result.tried for result in results] == [False, False]
    assert ended
    assert not simulator.requests["score"]


def test_only_the_probe_decides_while_the_circuit_is_open(new_stage: NewStage) -> None:
    """What was under way when it opened says nothing new: no pause ends by it, and none gets longer."""
    worker = new_stage().worker("me", threading.Event())
    assert worker._judge(HttpResult(429, "HTTP 429", 60.0), probe=False)
    opened = worker._circuit
    for late in (
        HttpResult(200),
        HttpResult(422, "HTTP 422"),
        HttpResult(500, "HTTP 500"),
        HttpResult(429, "HTTP 429", 1.0),
    ):
        assert not worker._judge(late, probe=False)
        assert worker._circuit == opened
        assert "HTTP 429" in worker._health.conditions()["inference"]
    assert not worker._judge(HttpResult(500, "HTTP 500"), probe=True)
    assert worker._circuit.opened == 2
    worker._judge(HttpResult(200), probe=True)
    assert worker._circuit.closed
    assert not worker._health.conditions()


def test_a_run_that_meets_an_error_nobody_expected_ends(new_stage: NewStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread goes on, there is room for another one, and its calls come back when the claim runs out."""
    worker = new_stage().worker("me", threading.Event())

    def failing(_run: Run) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr(worker, "_call_run", failing)
    worker._ready.put(Run([], 0.0, probe=False))
    worker._ready.put(None)
    worker._call_runs()
    assert worker._tried.get_nowait() == Finished([], run_ended=True)


def test_a_stop_gives_back_what_is_not_tried(new_stage: NewStage, simulator: Simulator) -> None:
    """The calls in hand end, the others are due again at once and uncharged."""
    simulator.behave("score", "slow:0.5")
    stage = new_stage(INFERENCE_CONCURRENCY="2")
    stage.make_due(*(f"i-{number}" for number in range(20)))
    stage.start()
    wait_until(lambda: len(simulator.requests["score"]) == 2, "two calls are under way")
    stage.stop()
    assert stage.states() == {"done": 2, "due": 18}
    with stage.engine.connect() as connection:
        held = connection.execute(text("SELECT count(*) FROM outbox_inference_call WHERE claimed_by IS NOT NULL"))
        assert held.scalar_one() == 0


def test_calls_make_way_while_a_backlog_is_drained(new_stage: NewStage, simulator: Simulator) -> None:
    """Full batches are marked one after the other: calls trickle, and do not stand still."""
    stage = new_stage()
    stage.make_due(*(f"i-{number}" for number in range(300)))
    stage.drain_signal.rows_sent(0, full_batch=True)
    began = time.monotonic()
    stage.start()
    wait_until(lambda: len(simulator.requests["score"]) >= 6, "some calls are made")
    assert len(simulator.requests["score"]) <= 1 + 4 * (time.monotonic() - began)
    stage.drain_signal.caught_up(0)
    stage.wait_for(done=300)


def test_a_drain_without_end_leaves_the_calls_their_turn(new_stage: NewStage, simulator: Simulator) -> None:
    """They make way at first; when they have done so for long, they go at full speed for a while."""
    now, stage = [0.0], new_stage()
    stage.drain_signal = DrainSignal(lambda: now[0])
    stage.make_due(*(f"i-{number}" for number in range(800)))
    stage.drain_signal.rows_sent(0, full_batch=True)
    stage.start()
    wait_until(lambda: len(simulator.requests["score"]) >= 3, "some calls are made")
    assert stage.states()["due"] > 700
    while now[0] < DEFER_SECONDS:
        now[0] += 1
        stage.drain_signal.rows_sent(0, full_batch=True)
        rushes = stage.drain_signal.is_draining()
    assert not rushes
    stage.wait_for(done=800)


def test_an_error_nobody_expected_does_not_end_the_stage(
    new_stage: NewStage, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged and in sight, and the calls go on after a pause."""
    any_due, errors = InferenceQueue.any_due, iter([RuntimeError("nobody expected this")] * 3)

    def failing_at_first(calls: InferenceQueue) -> bool:
        for error in errors:
            raise error
        return any_due(calls)

    monkeypatch.setattr(InferenceQueue, "any_due", failing_at_first)
    stage = new_stage()
    stage.make_due("a")
    stage.start()
    wait_until(lambda: "unexpected RuntimeError" in stage.health.conditions().get("inference calls", ""), "it says so")
    stage.wait_for(done=1)
    wait_until(lambda: not stage.health.conditions(), "all is well again")


def test_a_stop_lets_no_call_go_that_makes_way(new_stage: NewStage, simulator: Simulator) -> None:
    """Those who wait for their turn while a backlog is drained are given back."""
    stage = new_stage()
    stage.make_due(*(f"i-{number}" for number in range(20)))
    stage.drain_signal.rows_sent(0, full_batch=True)
    stage.start()
    wait_until(lambda: len(simulator.requests["score"]) >= 1, "a call is made")
    stage.stop()
    assert len(simulator.requests["score"]) <= 2


def test_a_host_that_is_not_allowed_stops_the_start(new_stage: NewStage) -> None:
    """INFERENCE_ALLOWED_HOSTS lists names; another one is refused before anything is called."""
    with pytest.raises(MisconfiguredError, match=r"127\.0\.0\.1, which is not in INFERENCE_ALLOWED_HOSTS"):
        new_stage(INFERENCE_ALLOWED_HOSTS="scoring.example, other.example").start()
    new_stage(INFERENCE_ALLOWED_HOSTS="scoring.example, 127.0.0.1").start()


def test_interactions_reach_scoring_through_a_whole_relay(deployment: Deployment, simulator: Simulator) -> None:
    """From the outbox through Kafka to the endpoint, each once."""
    ids = deployment.record([new_row(f"i-{number % 10}") for number in range(100)])
    deployment.environ.update(simulator.inference)
    deployment.relay()
    wait_until(lambda: len(simulator.scored()) >= 100, "every call is made")
    assert sorted(simulator.scored()) == ids


def test_status_tells_while_the_endpoint_fails(deployment: Deployment, simulator: Simulator) -> None:
    """Rows go on into Kafka; why their calls wait stands beside the shard until it is over; no token is told."""
    deployment.environ.update(simulator.inference)
    simulator.behave("score", "503:0")
    ids = deployment.record([new_row("a"), new_row("b")])
    relay = deployment.relay(RELAY_LEASE_SECONDS="3", INFERENCE_TOKEN="canary-token")
    told = "inference: the endpoint fails (HTTP 503)"
    wait_until(lambda: told in (deployment.store.status()[0].condition or ""), "status tells")
    assert "INFERENCE_URL" in relay.degraded()["inference"]
    deployment.check_exactly_once(ids)
    simulator.behave("score", "ok")
    wait_until(lambda: not relay.degraded() and not deployment.store.status()[0].condition, "all is well again")
    assert set(simulator.scored()) == set(ids)
    assert "canary" not in relay.log.read_text() + relay.get("/readyz") + relay.get("/metrics")


@pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)
def test_counting_that_takes_long_holds_up_no_heartbeat(deployment: Deployment, simulator: Simulator) -> None:
    """While a count stands still for longer than a lease, here before a lock, the relay stays a live member."""
    deployment.environ.update(simulator.inference)
    deployment.relay(RELAY_LEASE_SECONDS="3")
    leases = Leases(deployment.engine, "onlooker", 3)

    def live() -> bool:
        return [member.live for member in leases.relays_and_shards()[0]] == [True]

    def counting() -> bool:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%min(%'"
        return bool(deployment.query(waiting))

    wait_until(live, "the relay is there")
    with deployment.engine.begin() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(text("LOCK TABLE outbox_inference_call IN ACCESS EXCLUSIVE MODE"))
        wait_until(counting, "a count stands still")
        until = time.monotonic() + 4
        wait_until(lambda: not live() or time.monotonic() > until, "more than a lease passes")
        assert live()
