"""The torture, in short: every kind of database under load and under faults, and the count afterwards."""

from pathlib import Path

import pytest

from tests.faults.ledger import Evidence, Injected, judge, table
from tests.faults.torture import staged, torment
from tests.services import Given, Registry
from tests.support import Seen


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "seed"), [("sqlite", 1), ("postgresql", 2)])
def test_faults_under_load(kind: str, seed: int, registry: Registry | Given, tmp_path: Path) -> None:
    """Every interaction that was answered with 202 is in the topic once and in order, whatever happened meanwhile."""
    told: list[str] = []
    with staged(kind, registry, tmp_path) as stage:
        lines = torment(stage, kind, seed, 40, told.append)
    assert all(line.exact for line in lines), f"seed {seed}\n{''.join(told)}\n{table(lines)}"
    assert lines[-1].injected, "no fault was inflicted"
    assert lines[-1].rows > 100


def record(outbox_id: int, key: str = "a", partition: int = 0) -> Seen:
    """A record of a row."""
    return Seen(partition, outbox_id, key, b"", {"outbox-id": str(outbox_id)})


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
