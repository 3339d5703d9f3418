"""The compact table of rows."""

from relay.verify.row_table import REPORTED, UNSENT, RowTable


def table() -> RowTable:
    """Return a table of ids from 10: 10 and 12 sent by shards 0 and 98, 13 not sent, none with the id 11."""
    rows = RowTable(10, values=False)
    rows.extend(13)
    for row_id, state in ((10, 1), (12, 99), (13, UNSENT)):
        assert rows.add(row_id, state, 2**32 - 1, None)
    return rows


def test_rows_are_found_by_state() -> None:
    """An id without a row is in no state; a row that is counted is not found again."""
    rows = table()
    assert (list(rows.sent_not_seen()), list(rows.unsent())) == ([10, 12], [13])
    rows.set_state(10, REPORTED)
    assert list(rows.sent_not_seen()) == [12]
    assert not rows.add(12, 1, 0, None)


def test_pruned_ids_are_dropped() -> None:
    """The others stay where they are, and later ids have room."""
    rows = table()
    rows.drop_before(12)
    rows.extend(14)
    assert (rows.first, len(rows), list(rows.sent_not_seen()), list(rows.unsent())) == (12, 3, [12], [13])
    rows.drop_before(5)
    assert rows.first == 12
    rows.drop_before(100)
    rows.extend(100)
    assert (rows.first, len(rows), list(rows.sent_not_seen())) == (100, 1, [])


def test_ten_million_ids_take_five_bytes_each() -> None:
    """Nine with values."""
    rows, with_values = RowTable(1, values=False), RowTable(1, values=True)
    for each in (rows, with_values):
        each.extend(1_000)
    assert len(rows.states) + rows.identities.itemsize * len(rows.identities) == 5_000
    assert with_values.contents is not None
    assert with_values.contents.itemsize * len(with_values.contents) == 4_000
