"""The compact table of rows."""

from relay.verify.row_table import REPORTED, SEEN, SENT, UNSENT, RowTable


def table() -> RowTable:
    """Return a table of ids from 10: 10 and 12 sent, 13 not sent, none with the id 11."""
    rows = RowTable(10, values=False)
    rows.extend(13)
    for row_id, state in ((10, SENT), (12, SENT), (13, UNSENT)):
        rows.set_state(row_id, state)
    return rows


def test_rows_are_found_by_state() -> None:
    """An id without a row is in no state; a row that is counted is not found again."""
    rows = table()
    assert (list(rows.sent_not_seen()), list(rows.unsent())) == ([10, 12], [13])
    rows.set_state(10, REPORTED)
    assert list(rows.sent_not_seen()) == [12]


def test_a_record_that_was_read_stays_read() -> None:
    """Whatever becomes of its row: an unsent one is still found."""
    rows = table()
    rows.states[3] |= SEEN
    assert (rows.is_seen(13), list(rows.unsent())) == (True, [13])
    rows.set_state(13, SENT)
    assert (rows.is_seen(13), list(rows.unsent()), list(rows.sent_not_seen())) == (True, [], [10, 12])


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


def test_ten_million_ids_take_six_bytes_each() -> None:
    """Ten with values."""
    rows, with_values = RowTable(1, values=False), RowTable(1, values=True)
    for each in (rows, with_values):
        each.extend(1_000)
    assert len(rows.states) + len(rows.partitions) + rows.identities.itemsize * len(rows.identities) == 6_000
    assert with_values.contents is not None
    assert with_values.contents.itemsize * len(with_values.contents) == 4_000
