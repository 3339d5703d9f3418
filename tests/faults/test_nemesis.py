"""The torture, in short: every kind of database under load and under faults, and the count afterwards."""

from itertools import islice
from math import inf
from pathlib import Path
from random import Random

import pytest

from testkit.services import ExternalService, Registry
from testkit.topic import ConsumedRecord
from tests.faults.nemesis import faults_of, schedule
from tests.faults.outcome import Evidence, Injected, judge, table
from tests.faults.torture import staged, torment


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "seed"), [("sqlite", 1), ("postgresql", 2)])
def test_faults_under_load(kind: str, seed: int, registry: Registry | ExternalService, tmp_path: Path) -> None:
    """Every interaction that was answered with 202 is in the topic once and in order, whatever happened meanwhile."""
    told: list[str] = []
    with staged(kind, registry, tmp_path) as stage:
        lines = torment(stage, kind, seed, 40, told.append)
    assert all(line.exact for line in lines), f"seed {seed}\n{''.join(told)}\n{table(lines)}"
    assert lines[-1].injected, "no fault was inflicted"
    assert lines[-1].rows > 100


def record(outbox_id: int, key: str = "a", partition: int = 0) -> ConsumedRecord:
    """A record of a row."""
    return ConsumedRecord(partition, outbox_id, key, b"", {"outbox-id": str(outbox_id)})


def test_the_judge_counts_what_is_wrong_and_for_which_fault() -> None:
    """Lost, doubled, out of order, in sight: each row for the fault in or after which it was received."""
    evidence = Evidence(
        accepted={1: 10.5, 2: 11.0, 3: 20.5, 4: 21.0, 5: 22.0},
        committed={1: 10.4, 2: 10.9, 3: 20.4, 5: 21.9, 6: 22.5},
        in_sight=frozenset({5}),
        seen=[record(2), record(1), record(6, "b"), record(6, "b"), record(99, "c")],
        arrivals=[9.0, 12.0, 20.0, 26.0],
    )
    first, second, everything = judge([Injected("kill", 10.0, 12.0), Injected("cut", 20.0, 26.0)], evidence)
    assert first == ("kill", 1, 2, 0, 0, 1, 0, 3.0)
    assert second == ("cut", 1, 4, 2, 1, 0, 1, 6.0)
    assert everything == ("all", 2, 6, 2, 2, 1, 1, 6.0), "a record of no known row counts as doubled"
    assert not everything.exact


def test_the_judge_does_not_pass_a_product_that_stands_still() -> None:
    """Nothing came through any more after the fault, though nothing is missing."""
    (_, everything) = judge([Injected("kill", 10.0, inf)], Evidence({}, {}, frozenset(), [], [9.0]))
    assert (everything.longest_pause, everything.exact) == (inf, False)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_seed_is_a_schedule(kind: str) -> None:
    """The same one each time: every fault once on its own, and in between two at a time that harm different things."""
    faults = faults_of(kind)
    count = len(faults) + len(faults) // 3
    once, again = (list(islice(schedule(faults, Random(7)), count)) for _ in range(2))
    assert once == again
    assert once != list(islice(schedule(faults, Random(8)), count))
    assert sorted(each[0].name for each in once if len(each) == 1) == sorted(fault.name for fault in faults)
    assert all(len({fault.subject for fault in each}) == len(each) for each in once)
    assert {len(each) for each in once} == {1, 2}
