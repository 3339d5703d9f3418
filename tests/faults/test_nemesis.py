"""A short torture run on each database and on a cluster of brokers, and tests of its schedule and its outcome check."""

from itertools import islice
from math import inf
from pathlib import Path
from random import Random

import pytest

from testkit.services import ExternalService, Registry
from testkit.topic import ConsumedRecord
from tests.faults.nemesis import PROCESS_FAULTS, schedule
from tests.faults.outcome import InjectedFault, Observations, check_outcome, markdown_table
from tests.faults.system import RELAYS, Fault
from tests.faults.torture import SERVICES, inject_faults


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("services", "seed"), [("sqlite", 1), ("postgresql", 2)])
def test_faults_under_load(services: str, seed: int, registry: Registry | ExternalService, tmp_path: Path) -> None:
    """Every interaction answered with 202 is in the topic exactly once and in order, whatever faults occurred."""
    progress: list[str] = []
    with SERVICES[services](registry, tmp_path, RELAYS) as system:
        *by_fault, total = inject_faults(system, seed, 40, progress.append)
    outcome = f"seed {seed}\n{''.join(progress)}\n{markdown_table([*by_fault, total])}"
    assert all(each.exact for each in by_fault), outcome
    assert total.exact, outcome
    assert total.injected, outcome
    assert total.rows > 100, outcome


CLUSTER_FAULTS = ("coordinator killed (-9)", "coordinator frozen", "two of three brokers killed (-9)")


@pytest.mark.timeout(900)
def test_faults_of_a_cluster_under_load(registry: Registry | ExternalService, tmp_path: Path) -> None:
    """Open transactions end, once and in order, when the brokers that run them are killed or frozen."""
    progress: list[str] = []
    with SERVICES["cluster"](registry, tmp_path, RELAYS) as system:
        faults = {fault.name: fault for fault in system.faults}
        phases = [(faults[name],) for name in CLUSTER_FAULTS]
        summaries = inject_faults(system, 146, inf, progress.append, phases)
    outcome = f"{''.join(progress)}\n{markdown_table(summaries)}"
    assert [each.fault for each in summaries] == [*CLUSTER_FAULTS, "all"], outcome
    assert all(each.exact for each in summaries), outcome
    assert summaries[-1].rows > 100, outcome


def record(outbox_id: int, key: str = "a", partition: int = 0) -> ConsumedRecord:
    """Return a record of a row."""
    return ConsumedRecord(partition, outbox_id, key, b"", {"outbox-id": str(outbox_id)})


def test_faults_are_charged_with_the_rows_received_after_they_began() -> None:
    """Each row that is lost, duplicated or otherwise wrong counts for the last fault that began before it."""
    observed = Observations(
        accepted={1: 10.5, 2: 11.0, 3: 20.5, 4: 21.0, 5: 22.0},
        not_stored=frozenset({2}),
        committed={1: 10.4, 2: 10.9, 3: 20.4, 5: 21.9, 6: 22.5},
        accounted_for=frozenset({5}),
        records=[record(2), record(1), record(6, "b"), record(6, "b"), record(99, "c")],
        arrivals={0: [9.0, 12.0, 20.0, 26.0], 1: [9.5, 10.5, 12.0, 20.0, 26.5]},
        misplaced=frozenset({4, 99}),
    )
    first, second, total = check_outcome(
        [InjectedFault("kill", 10.0, 12.0), InjectedFault("cut", 20.0, 26.0)], observed
    )
    assert first == ("kill", 1, 2, 1, 0, 1, 0, 0, 3.0, 9.5), "row 2 is in the topic, but not in the database"
    assert second == ("cut", 1, 4, 2, 1, 0, 1, 1, 6.0, 9.5)
    assert total == ("all", 2, 6, 3, 2, 1, 1, 2, 6.0, 9.5), "a record of an unknown row counts as a duplicate"
    assert not total.exact


def test_an_outcome_without_recovery_is_not_exact() -> None:
    """If no record arrives after a fault, the run fails even though no row is missing."""
    _, total = check_outcome(
        [InjectedFault("kill", 10.0, inf)],
        Observations({}, frozenset(), {}, frozenset(), [], {0: [9.0]}, frozenset()),
    )
    assert total.longest_pause == inf
    assert not total.exact


def test_a_missed_progress_record_is_not_exact() -> None:
    """It fails the run even if no row happened to be sent twice."""
    observed = Observations({}, frozenset(), {}, frozenset(), [], {0: [9.0]}, frozenset(), progress_missed=1)
    _, total = check_outcome([InjectedFault("kill", 10.0, 11.0)], observed)
    assert total.duplicated == 1
    assert not total.exact


def test_a_seed_determines_the_schedule() -> None:
    """The same seed gives the same schedule: each fault once alone, and pairs of faults on different subjects."""
    faults = (*PROCESS_FAULTS, Fault("broker stopped", "broker", lambda *_: None))
    count = len(faults) + len(faults) // 3
    first, second = (list(islice(schedule(faults, Random(7)), count)) for _ in range(2))
    assert first == second
    assert first != list(islice(schedule(faults, Random(8)), count))
    assert sorted(each[0].name for each in first if len(each) == 1) == sorted(fault.name for fault in faults)
    assert all(len({fault.subject for fault in each}) == len(each) for each in first)
    assert {len(each) for each in first} == {1, 2}
