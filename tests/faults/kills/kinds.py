"""The kinds of kill (-9), and how often each occurs in a hundred kills."""

from collections.abc import Callable
from random import Random

from tests.faults.kills.system import Kill, KilledSystem

MAX_OCCURRENCE = 5
TAKEOVER_STEPS = ("leased", "fenced", "read_back", "acknowledged")
CYCLE_STEPS = ("selected", "encoded", "committed", "marked")
INFERENCE_STEPS = ("claimed", "called", "results_recorded")
WEB_STEPS = {
    "recording": "before the commit",
    "committing": "during the commit",
    "recorded": "after the commit, before an answer",
    "answering": "before one of the answers",
}


def kill_relay(system: KilledSystem) -> None:
    """Kill a relay: half of the time one that owns a shard, otherwise any."""
    relay = system.owner() if system.rng.random() < 0.5 else system.running_relay()
    relay.kill()
    system.restart_relays()


def kill_relays(system: KilledSystem) -> None:
    """Kill every relay."""
    for relay in system.relays:
        relay.kill()
    system.restart_relays()


def kill_web(system: KilledSystem) -> None:
    """Kill the web master and its workers."""
    system.web.kill()
    system.restart_web()


def kill_worker(system: KilledSystem) -> None:
    """Kill one of the web's workers, which the master replaces."""
    system.kill_worker()


def kill_both(system: KilledSystem) -> None:
    """Kill the web and a relay that owns a shard at the same time."""
    owner = system.owner()
    system.web.kill()
    owner.kill()
    system.restart_relays()
    system.restart_web()


def kill_relay_at(step: str) -> Callable[[KilledSystem], None]:
    """Kill the relay that reaches a step, at an occurrence that is drawn."""

    def inject(system: KilledSystem) -> None:
        system.traps.set(step, system.rng.randint(1, MAX_OCCURRENCE))
        _await_relay(system, step)

    return inject


def kill_owner_before(step: str) -> Callable[[KilledSystem], None]:
    """Kill a relay that owns a shard, so that another takes it over and dies at a step of that."""

    def inject(system: KilledSystem) -> None:
        system.traps.set(step)
        system.owner().kill()
        system.restart_relays()

    return inject


def kill_at_parking(system: KilledSystem) -> None:
    """Kill the relay that parks a row that Kafka refuses."""
    system.traps.set("parked")
    system.post_refused()
    _await_relay(system, "parked")


def await_relay(step: str) -> Callable[[KilledSystem], None]:
    """Wait until a relay has died in the trap at a step."""
    return lambda system: _await_relay(system, step)


def _await_relay(system: KilledSystem, step: str) -> None:
    system.wait_for_death_at(step)
    system.restart_relays()


def kill_worker_at(step: str) -> Callable[[KilledSystem], None]:
    """Kill the worker that reaches a step of a commit, at an occurrence that is drawn."""

    def inject(system: KilledSystem) -> None:
        system.traps.set(step, system.rng.randint(1, MAX_OCCURRENCE))
        system.wait_for_death_at(step)

    return inject


RANDOM_MOMENT = "a relay at a random moment"


def at(step: str) -> str:
    """Return the name of a kill at a step of the relay."""
    return f"a relay at {step}"


GROUPS = (
    (10, (Kill(RANDOM_MOMENT, kill_relay),)),
    *(
        (3, (Kill(RANDOM_MOMENT, kill_owner_before(step)), Kill(at(step), await_relay(step))))
        for step in TAKEOVER_STEPS
    ),
    *((4, (Kill(at(step), kill_relay_at(step)),)) for step in CYCLE_STEPS),
    *((3, (Kill(at(step), kill_relay_at(step)),)) for step in INFERENCE_STEPS),
    (2, (Kill(at("parked"), kill_at_parking),)),
    (3, (Kill("every relay", kill_relays),)),
    (6, (Kill("web, master and workers", kill_web),)),
    (8, (Kill("a worker of the web at a random moment", kill_worker),)),
    *((4, (Kill(f"a worker {when}", kill_worker_at(step)),)) for step, when in WEB_STEPS.items()),
    (6, (Kill("web and a relay at the same time", kill_both),)),
)
"""How often each occurs in a hundred kills; where there are two, one follows the other."""
NAMES = tuple(dict.fromkeys(kill.name for _, kills in GROUPS for kill in kills))


def schedule(rng: Random) -> list[Kill]:
    """Return a hundred kills in random order."""
    groups = [kills for times, kills in GROUPS for _ in range(times)]
    rng.shuffle(groups)
    return [kill for kills in groups for kill in kills]
