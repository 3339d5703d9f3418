"""Pages of rows, calls and audit entries on both databases: the newest first, in bounded steps."""

import pytest
from sqlalchemy import Engine, text

from outbox.db.engine import create_outbox_engine
from outbox.operators import audit, pages
from outbox.operators.audit import AuditContext
from outbox.operators.pages import PAGE_ROWS, PageReader, RowPage
from outbox.operators.rows import WINDOW_IDS, RowFilter
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.outbox import park, park_calls, record, set_state
from testkit.rows import new_row, new_rows


@pytest.fixture
def reader(engine: Engine) -> PageReader:
    """Return a reader of a fresh database."""
    return PageReader(engine)


def ids_of(page: RowPage) -> list[int]:
    """Return the ids of a page."""
    return [row.id for row in page.rows]


def all_ids(reader: PageReader, wanted: RowFilter) -> list[int]:
    """Return the ids of all pages of a filter; each page but the last is full where an index serves."""
    page = reader.rows(wanted)
    ids = ids_of(page)
    while page.before is not None:
        page = reader.rows(wanted, page.before)
        ids += ids_of(page)
    return ids


def test_pages_show_the_newest_rows_first(reader: PageReader, store: Store) -> None:
    """Each page has 50 rows, continues below the one before, and the last one says that it is."""
    ids = record(store, new_rows(120))
    first = reader.rows(RowFilter())
    assert ids_of(first) == ids[:-51:-1]
    second = reader.rows(RowFilter(), first.before)  # type: ignore[arg-type]
    assert ids_of(second) == ids[69:19:-1]
    last = reader.rows(RowFilter(), second.before)  # type: ignore[arg-type]
    assert (ids_of(last), last.before) == (ids[19::-1], None)


def test_an_empty_outbox_has_one_empty_page(reader: PageReader) -> None:
    """There is nothing to continue with."""
    assert reader.rows(RowFilter()) == RowPage([], None)
    assert reader.rows(RowFilter(state="parked")) == RowPage([], None)
    assert reader.rows(RowFilter(interaction_id="i-1")) == RowPage([], None)
    assert reader.calls(RowFilter()) == RowPage([], None)
    assert reader.problems() == reader.call_problems() == []


@pytest.mark.parametrize("shards", [1, 3])
def test_each_filter_has_its_pages(new_database: NewDatabase, shards: int) -> None:
    """Conditions work alone and together, across shards and over more than one page."""
    engine = create_outbox_engine(new_database(shards))
    ids = record(Store(engine), [*new_rows(200), new_row("other", channel="chat")])
    set_state(engine, "id <= 70", "parked", "too large")
    set_state(engine, "id > 70 AND id <= 80", "discarded", "Not encodable")
    set_state(engine, "id > 80 AND id <= 140", "sent")
    reader = PageReader(engine)
    assert all_ids(reader, RowFilter()) == ids[::-1]
    assert all_ids(reader, RowFilter(state="parked")) == list(range(70, 0, -1))
    assert all_ids(reader, RowFilter(state="discarded")) == list(range(80, 70, -1))
    assert all_ids(reader, RowFilter(state="sent")) == list(range(140, 80, -1))
    assert all_ids(reader, RowFilter(state="pending")) == list(range(201, 140, -1))
    assert all_ids(reader, RowFilter(error="t")) == list(range(80, 0, -1))
    assert all_ids(reader, RowFilter(error="NOT")) == list(range(80, 70, -1))
    assert all_ids(reader, RowFilter(state="parked", error="not")) == []
    assert all_ids(reader, RowFilter(channel="chat")) == ids[-1:]
    assert all_ids(reader, RowFilter(interaction_id="i-3")) == ids[193:0:-10]
    assert all_ids(reader, RowFilter(interaction_id="i-3", state="parked")) == ids[63:0:-10]
    engine.dispose()


def test_times_bound_a_page(reader: PageReader, store: Store, engine: Engine) -> None:
    """``since`` is included, ``until`` is not."""
    ids = record(store, new_rows(10))
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET received_at = 1000000 * id"))
    wanted = RowFilter(since_ms=1000000 * ids[2], until_ms=1000000 * ids[5])
    assert ids_of(reader.rows(wanted)) == [ids[4], ids[3], ids[2]]


def test_a_search_without_an_index_ends_after_some_windows(reader: PageReader, store: Store, engine: Engine) -> None:
    """Where few rows match, a page may be short or empty: it says where to go on, and the last one finds the row."""
    record(store, [new_row("first", channel="chat"), new_row("i-1")])
    gap = (pages.MAX_WINDOWS + 1) * WINDOW_IDS
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE outbox_pending SET id = {gap} WHERE id = 2"))
        connection.execute(text(f"UPDATE outbox SET id = {gap} WHERE id = 2"))
    wanted = RowFilter(channel="chat")
    empty = reader.rows(wanted)
    assert (empty.rows, empty.before) == ([], WINDOW_IDS + 1)
    assert ids_of(reader.rows(wanted, WINDOW_IDS + 1)) == [1]
    assert reader.rows(wanted, WINDOW_IDS + 1).before is None


def test_problems_are_grouped_with_what_waits_behind_them(reader: PageReader, store: Store, engine: Engine) -> None:
    """Errors that differ in numbers are one problem; a waiting row counts once for each problem that blocks it."""
    ids = record(store, new_rows(8, interactions=2))
    park(store, engine, {ids[0]: "1001 bytes", ids[2]: "2002 bytes", ids[1]: "Other"})
    assert [(p.group.error, p.group.rows, p.waiting) for p in reader.problems()] == [
        ("# bytes", 2, 2),
        ("Other", 1, 3),
    ]
    assert [p.group.error for p in reader.problems("OTH")] == ["Other"]
    assert reader.problems("nothing") == []


def test_parked_calls_have_pages_and_problems(reader: PageReader, store: Store, engine: Engine) -> None:
    """They show the error of the call, and can be searched by it."""
    ids = record(store, new_rows(60))
    set_state(engine, "id > 0", "sent")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO outbox_inference_call (row_id, interaction_id, due_at) SELECT id, 'i', 1 FROM outbox")
        )
    park_calls(engine, ids[:55], 1)
    first = reader.calls(RowFilter())
    assert (ids_of(first), first.before) == (ids[54:4:-1], ids[5])
    assert {row.error for row in first.rows} == {"HTTP 422"}
    assert ids_of(reader.calls(RowFilter(), ids[5])) == ids[4::-1]
    assert reader.calls(RowFilter(error="refused")).rows == []
    assert [(p.group.error, p.group.rows, p.waiting) for p in reader.call_problems("http")] == [("HTTP #", 55, 0)]


@pytest.fixture
def five_entries(engine: Engine) -> list[int]:
    """Add five audit entries; return their ids."""
    with engine.begin() as connection:
        for number in range(5):
            audit.add(connection, "retry", AuditContext("ann", f"reason {number}", RowFilter()), [number + 1])
    return [entry.id for entry in audit.entries(engine)]


def test_the_newest_audit_entries_come_first(reader: PageReader, five_entries: list[int]) -> None:
    """Each page continues below the one before."""
    first = reader.audit(limit=3)
    assert [entry.id for entry in first.entries] == five_entries[:1:-1]
    assert first.before == five_entries[2]
    last = reader.audit(first.before, limit=3)
    assert ([entry.reason for entry in last.entries], last.before) == (["reason 1", "reason 0"], None)


def test_a_full_page_is_the_last_one_if_nothing_follows(reader: PageReader, store: Store) -> None:
    """No empty page is offered."""
    record(store, new_rows(PAGE_ROWS))
    assert reader.rows(RowFilter()).before is None


def test_rows_like_a_row_share_its_interaction(reader: PageReader, store: Store) -> None:
    """The row stands for its interaction, which then needs not be named."""
    ids = record(store, new_rows(30))
    wanted = reader.like(ids[3])
    assert wanted == RowFilter(interaction_id="i-3")
    assert ids_of(reader.rows(wanted)) == [ids[23], ids[13], ids[3]]
    assert reader.like(ids[-1] + 1) is None


def test_rows_of_a_customer_are_found_by_the_address_or_by_a_row(reader: PageReader, store: Store) -> None:
    """The case of the address is ignored, and it must be complete."""
    ids = record(store, [new_row("i-1"), new_row("i-2", customer_email="Ann@Example.com"), new_row("i-3")])
    assert ids_of(reader.of_customer("ann@example.com")) == [ids[1]]
    assert ids_of(reader.of_customer("ann@example")) == []
    assert ids_of(reader.of_same_customer(ids[0])) == [ids[2], ids[0]]
    assert ids_of(reader.of_same_customer(ids[2] + 1)) == []
