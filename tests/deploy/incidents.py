"""Incidents on any services: how each is brought about and mended, and the alerts that have to fire and to clear."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from testkit.command_line import command
from testkit.preload import Clock
from testkit.rows import incompressible, new_row
from testkit.topic import alter_topic
from testkit.waiting import wait_until
from testkit.web_process import SECRET
from tests.deploy.monitored_system import MonitoredSystem

FIRE_SECONDS, CLEAR_SECONDS = 240.0, 300.0
ALL = ("--all", "--yes", "--reason", "mended")


def nothing(_system: MonitoredSystem) -> None:
    """Prepare nothing, or mend nothing: the alert ends with its window."""


class Incident(NamedTuple):
    """Something that goes wrong.

    Attributes:
        name: as a row of a table.
        alerts: have to fire.
        begin: brings it about.
        end: mends it.
        prepare: what has to be there before; not part of the time that the alerts take.
    """

    name: str
    alerts: Sequence[str]
    begin: Callable[[MonitoredSystem], object]
    end: Callable[[MonitoredSystem], object]
    prepare: Callable[[MonitoredSystem], object] = nothing


class SeenAlert(NamedTuple):
    """An alert of an incident, with the seconds that it took to fire and, after the end, to clear."""

    name: str
    summary: str
    fired_seconds: float
    cleared_seconds: float


def play(system: MonitoredSystem, incident: Incident, during: Callable[[], object] | None = None) -> list[SeenAlert]:
    """Bring an incident about, see its alerts fire, mend it, and see every alert clear.

    Args:
        during: called while the alerts fire.
    """
    incident.prepare(system)
    began = monotonic()
    fired: dict[str, tuple[float, str]] = {}

    def have_fired() -> bool:
        for name, summary in system.prometheus.firing().items():
            fired.setdefault(name, (monotonic() - began, summary))
        return set(incident.alerts) <= fired.keys()

    incident.begin(system)
    wait_until(have_fired, f"{incident.alerts} fire during {incident.name}", FIRE_SECONDS)
    if during:
        during()
    ended = monotonic()
    cleared: dict[str, float] = {}

    def have_cleared() -> bool:
        firing = system.prometheus.firing()
        for name, summary in firing.items():  # such as rows that were late, and are counted now
            fired.setdefault(name, (monotonic() - began, summary))
        for name in fired.keys() - firing.keys():
            cleared.setdefault(name, monotonic() - ended)
        return not firing

    incident.end(system)
    wait_until(have_cleared, f"every alert of {incident.name} clears", CLEAR_SECONDS)
    return [SeenAlert(name, summary, at, cleared[name]) for name, (at, summary) in fired.items()]


def relay_stopped() -> Incident:
    """Its shards have no owner, and rows gather."""
    alerts = ("RelayDown", "ShardsUnowned", "BacklogOld", "NothingCommitted")
    return Incident(
        "the only relay is stopped", alerts, lambda system: system.relay.stop(), MonitoredSystem.restart_relay
    )


def web_stopped() -> Incident:
    """Nothing is taken in."""
    return Incident("web is stopped", ("WebDown",), lambda system: system.web.stop(), MonitoredSystem.restart_web)


def secret_rotated() -> Incident:
    """On CXone's side only."""

    def show(secret: str) -> Callable[[MonitoredSystem], object]:
        return lambda system: setattr(system.sender, "secret", secret)

    begin, end = show("the-secret-of-tomorrow"), show(SECRET)
    return Incident("CXone shows another secret", ("WebhookUnauthorized",), begin, end)


def invalid_bodies() -> Incident:
    """CXone's action was changed, and sends no id."""

    def send(body: object) -> Callable[[MonitoredSystem], object]:
        return lambda system: setattr(system.sender, "body", body)

    return Incident("interactions have no id", ("WebhookRejected",), send({"channel": "voice"}), send(None))


def placeholder() -> Incident:
    """One interaction with a variable that was not filled in."""

    def begin(system: MonitoredSystem) -> None:
        assert system.web.post({"id": "{contactId}", "channel": "voice"}).status_code == 202

    return Incident("a variable of CXone is not filled in", ("WebhookPlaceholders",), begin, nothing)


def inference_fails() -> Incident:
    """Every call is answered with 503."""
    return Incident("the inference endpoint answers 503", ("CircuitOpen", "CallsOld"), score("503"), score("ok"))


def calls_rejected() -> Incident:
    """The endpoint finds fault with each call, so they are parked."""

    def end(system: MonitoredSystem) -> None:
        system.simulator.behave("score", "ok")
        operate(system, "inference", "retry", *ALL)

    return Incident("the inference endpoint answers 422", ("CallsParked",), score("422"), end)


def token_refused() -> Incident:
    """CXone no longer knows the client, and has revoked its token."""

    def begin(system: MonitoredSystem) -> None:
        system.simulator.behave("token", "401")
        system.simulator.tokens.clear()

    return Incident(
        "CXone refuses the OAuth client",
        ("TokenRefused", "BacklogOld", "NothingCommitted"),
        begin,
        lambda system: system.simulator.behave("token", "ok"),
    )


def row_parked() -> Incident:
    """A record is larger than the topic allows, and a later row of its interaction waits."""

    def begin(system: MonitoredSystem) -> None:
        deployment = system.deployment
        with system.sender.holding():
            deployment.wait_drained()
            alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", "500")
            deployment.record([new_row("large", **incompressible()), new_row("large")])
            wait_until(lambda: sum(shard.parked for shard in deployment.store.status()), "the row is parked")
            alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", "1048588")

    return Incident(
        "a record is too large for the topic",
        ("RowsParked", "RowsWaiting"),
        begin,
        lambda system: operate(system, "retry", *ALL),
    )


def shards_paused() -> Incident:
    """An operator pauses sending, and goes home."""
    return Incident(
        "an operator pauses every shard",
        ("PausedLong", "BacklogOld", "NothingCommitted"),
        lambda system: operate(system, "pause", "--reason", "looking"),
        lambda system: operate(system, "resume", "--reason", "looked"),
    )


def database_went_back() -> Incident:
    """As after a restore: the database knows fewer transactions than Kafka."""

    def begin(system: MonitoredSystem) -> None:
        system.relay.kill()
        system.deployment.execute("UPDATE outbox_shard SET acknowledged_sequence = acknowledged_sequence - 5")
        system.restart_relay()

    def end(system: MonitoredSystem) -> None:
        operate(system, "reconcile", "--accept-duplicates", *ALL[1:])

    return Incident("the database is restored from a backup", ("DatabaseWentBack",), begin, end)


def clock_wrong(library: Path, folder: Path) -> Incident:
    """The clock of the relay's host is twenty minutes ahead, until it is set."""
    clock = Clock(folder / "clock")

    def begin(system: MonitoredSystem) -> None:
        clock.set_ahead(1_200)
        system.relay.stop()
        system.restart_relay(LD_PRELOAD=str(library), **clock.environ)

    return Incident("the clock of the relay's host is wrong", ("ClockOff",), begin, lambda _: clock.set_ahead(0))


def score(behaviour: str) -> Callable[[MonitoredSystem], object]:
    """Let the inference endpoint behave so."""
    return lambda system: system.simulator.behave("score", behaviour)


def operate(system: MonitoredSystem, *arguments: str) -> None:
    """Run a command of ``relay``, which must succeed."""
    done = command(system.environ, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
