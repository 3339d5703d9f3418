"""Which row of a refused batch is at fault."""

from random import Random

import pytest

from outbox.models import PendingRow
from relay.errors import MisconfiguredError
from relay.shard.bisector import MAX_CONSECUTIVE_PARKED, BatchBisector

MAX_ROWS = 100


def rows(count: int) -> list[PendingRow]:
    """Rows with ids from 1, each of an interaction of its own."""
    return [PendingRow(n, n, f"i-{n}", "voice", 0, None, None, None, None, 0) for n in range(1, count + 1)]


def bisector() -> BatchBisector:
    """A bisector outside a search."""
    return BatchBisector(Random(1))


def probing_bisector() -> BatchBisector:
    """A bisector after several rows were parked with none sent between them."""
    probing = bisector()
    for row in rows(MAX_CONSECUTIVE_PARKED):
        assert probing.refused([row], "refused") == row
    return probing


@pytest.mark.parametrize("at_fault", [1, 7, 100])
def test_a_refused_batch_is_halved_until_the_row_at_fault_is_alone(at_fault: int) -> None:
    """The rows before it are sent meanwhile; then batches have their usual size again."""
    search, pending, found = bisector(), rows(MAX_ROWS), None
    while found is None:
        batch = search.choose(pending, search.max_rows or MAX_ROWS)
        if at_fault in {row.id for row in batch}:
            found = search.refused(batch, "too large")
        else:
            search.committed(batch)
            pending = pending[len(batch) :]
    assert found.id == at_fault
    assert search.max_rows is None


def test_the_search_ends_when_every_row_of_the_batch_was_accepted() -> None:
    """The broker may accept later what it refused before."""
    search, batch = bisector(), rows(4)
    search.refused(batch, "too large")
    search.committed(batch[:2])
    assert search.max_rows == 2
    search.committed(batch[2:])
    assert search.max_rows is None


def test_the_search_ends_when_no_rows_are_left() -> None:
    """The row at fault may have been discarded."""
    search = bisector()
    search.refused(rows(4), "too large")
    search.reset()
    assert search.max_rows is None


def test_no_row_is_at_fault_when_kafka_refuses_every_row() -> None:
    """After several parked rows one probe is sent alone; if it is refused as well, nothing more is parked."""
    probing = probing_bisector()
    probe = probing.choose(rows(50), MAX_ROWS)
    assert len(probe) == 1
    with pytest.raises(MisconfiguredError, match="not a fault of rows"):
        probing.refused(probe, "refused")


def test_rows_are_parked_again_after_a_probe_was_accepted() -> None:
    """Then only the rows are at fault."""
    probing = probing_bisector()
    probing.committed(probing.choose(rows(50), MAX_ROWS))
    assert probing.choose(rows(50), MAX_ROWS) == rows(50)
    (row,) = rows(1)
    assert probing.refused([row], "refused") == row


def test_a_probe_is_chosen_from_more_rows_than_a_small_batch_has() -> None:
    """With one row in a batch every probe would be the same row, and rows that Kafka accepts would wait behind it."""
    probing = probing_bisector()
    window = probing.window(1)
    assert len({probing.choose(rows(10)[:window], 1)[0].id for _ in range(50)}) > 1
    probing.committed(rows(1))
    assert probing.window(1) == 1


def test_a_probe_is_the_first_row_of_its_interaction() -> None:
    """Rows of an interaction stay in order."""
    two = [row._replace(interaction_id=f"i-{row.id % 2}") for row in rows(10)]
    probing = probing_bisector()
    assert {probing.choose(two, MAX_ROWS)[0].id for _ in range(50)} == {1, 2}
